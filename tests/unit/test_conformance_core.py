"""The conformance suite's own tools: what judges a server has to be judged first."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from xml.etree import ElementTree

import numpy as np
import pytest

import conformance.checks  # noqa: F401  (registers every check)
from conformance import codecs, wadl
from conformance.__main__ import main
from conformance.check import REGISTER, Check, Level, NoAnswer, NotApplicable, NotSupported, Outcome, Register
from conformance.client import Web
from conformance.context import Context
from conformance.corpus import ALPHABETS, CORPORA
from conformance.data import Maker, element, ramp, read, same_elements
from conformance.html import as_html
from conformance.model import faults
from conformance.multipart import join, related, split
from conformance.report import as_json, as_junit, as_markdown, line
from conformance.run import Report, judge


def judged(function: Callable[[Context], None], level: Level = Level.MANDATORY, needs: str = "") -> object:
    check = Check("T01", "PS3.18 1", "a test", level, "2026b", "tests", frozenset(needs.split()), function)
    return judge(Context(None, None, Maker("unit")), check)


def refusing(error: Exception) -> Callable[[Context], None]:
    def function(c: Context) -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        (lambda c: c.expect("good", True), Outcome.PASSED),
        (lambda c: c.expect("bad", False), Outcome.FAILED),
        (lambda c: (c.expect("good", True), c.expect("bad", 0)), Outcome.FAILED),
        (lambda c: None, Outcome.ERROR),
        (refusing(NotSupported("no")), Outcome.NOT_SUPPORTED),
        (refusing(NotApplicable("no")), Outcome.NOT_APPLICABLE),
        (refusing(NoAnswer("hung up")), Outcome.FAILED),
        (refusing(KeyError("oops")), Outcome.ERROR),
        (lambda c: (c.expect("bad", False), c.web), Outcome.FAILED),
    ],
)
def test_outcomes(function: Callable[[Context], None], outcome: Outcome) -> None:
    assert judged(function).outcome is outcome


def test_only_mandatory_checks_break() -> None:
    assert judged(lambda c: c.expect("x", False)).breaks
    assert judged(lambda c: None).breaks
    assert not judged(lambda c: c.expect("x", False), Level.CONDITIONAL).breaks
    assert not judged(refusing(NotSupported("no"))).breaks


def test_without_the_way_in_a_check_is_not_applicable() -> None:
    result = judged(lambda c: c.expect("x", False), needs="dicomweb")
    assert result.outcome is Outcome.NOT_APPLICABLE
    assert result.reason == "no --dicomweb was given"


def test_the_register() -> None:
    ids = [each.id for each in REGISTER.chosen()]
    assert len(ids) == len(set(ids)) >= 300
    assert [each.id for each in REGISTER.chosen("C04")] == ["C04"]
    assert {each.id[0] for each in REGISTER.chosen("A,D")} == {"A", "D"}
    assert {"C37", "C37e"} <= {each.id for each in REGISTER.chosen("C37")}
    assert ids.index("G33") > ids.index("H01"), "what a server might not survive comes last"
    with pytest.raises(ValueError, match="no check is called Q99"):
        REGISTER.chosen("Q99")
    assert {each.service for each in REGISTER.chosen(services="qido-rs")} == {"QIDO-RS"}
    for services in ("QIDO-RS,none", "none", ","):  # nothing to judge is no success
        with pytest.raises(ValueError, match="service"):
            REGISTER.chosen(services=services)
    for each in REGISTER.checks.values():
        assert each.section.startswith(("PS3.", "RFC ", "Fetch")), each.id
        assert each.needs, each.id
    register = Register({"A01": REGISTER.checks["A01"]})
    with pytest.raises(AssertionError, match="two checks"):
        register.add(REGISTER.checks["A01"])


def test_multipart_is_taken_apart_strictly() -> None:
    kind = related("application/dicom")
    good = join([("Content-Type: a/b", b"one\r\n--not"), ("Content-Type: a/b", b"")])
    assert [part.content for part in split(kind, good)] == [b"one\r\n--not", b""]
    assert split(kind, b"preamble\r\n" + good + b"epilogue")[0].type == "a/b"
    for broken in (b"", good[:-26], good.replace(b"\r\n\r\none", b"\r\none"), b"no delimiter"):
        with pytest.raises(ValueError, match=r"."):
            split(kind, broken)
    with pytest.raises(ValueError, match="no boundary"):
        split("multipart/related; type=x", good)
    with pytest.raises(ValueError, match="not multipart"):
        split("application/json", good)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"00200010": {"vr": "SH"}, "00100010": {"vr": "PN"}}, "ascending"),
        ({"0010001a": {"vr": "SH"}}, "upper-case"),
        ({"00080000": {"vr": "UL", "Value": [4]}}, "group length"),
        ({"00100010": {"Value": ["x"]}}, "vr is None"),
        ({"00100020": {"vr": "LO", "Value": []}}, "empty one"),
        ({"00100020": {"vr": "LO", "Value": [""]}}, "empty attribute"),
        ({"00100010": {"vr": "PN", "Value": ["Doe"]}}, "a name is no object"),
        ({"00100010": {"vr": "PN", "Value": [{"Alphabetic": ""}]}}, "is empty"),
        ({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "a=b"}]}}, "delimiter"),
        ({"00280010": {"vr": "US", "Value": ["512"]}}, "a string for US"),
        ({"00200013": {"vr": "IS", "Value": [1.0]}}, "for IS"),
        ({"00280009": {"vr": "AT", "Value": ["0018106a"]}}, "no tag"),
        ({"7FE00010": {"vr": "OW", "Value": [1]}}, "Value for OW"),
        ({"7FE00010": {"vr": "OW", "InlineBinary": "AA==", "BulkDataURI": "x"}}, "together"),
        ({"7FE00010": {"vr": "OW", "InlineBinary": "not base64!"}}, "no base64"),
        ({"00080018": {"vr": "UI", "Value": ["1.2\0"]}}, "padding"),
        ({"00400275": {"vr": "SQ", "Value": [{"00400009": {"vr": "SH", "Value": []}}]}}, r"00400275\[0\].00400009"),
    ],
)
def test_the_rules_of_the_json_model_are_held(wrong: dict, words: str) -> None:
    import re

    assert any(re.search(words, each) for each in faults(wrong)), list(faults(wrong))


def test_a_good_object_breaks_no_rule() -> None:
    good = {
        "00080008": {"vr": "CS", "Value": ["A", None, "B"]},
        "00100010": {"vr": "PN", "Value": [{"Ideographic": "山田"}, None]},
        "00189073": {"vr": "FD", "Value": [0.1, "NaN"]},
        "00400275": {"vr": "SQ", "Value": [{}]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "http://x/1"},
    }
    assert list(faults(good)) == []


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_rle_there_and_back(dtype: str) -> None:
    pixels = ramp(13, 17, top=100, dtype=dtype)[0]
    stream = codecs.rle(pixels)
    assert codecs.unpack_rle(stream, pixels.size, 1, pixels.dtype.itemsize) == pixels.tobytes()
    colour = np.stack([pixels, pixels // 2, pixels // 3], -1)
    assert codecs.unpack_rle(codecs.rle(colour), pixels.size, 3, pixels.dtype.itemsize) == colour.tobytes()


@pytest.mark.filterwarnings("ignore::UserWarning")  # what pydicom says of the character sets it does not know
def test_the_data_is_what_it_says() -> None:
    maker = Maker("unit")
    made = {name: make(maker) for name, make in CORPORA.items()}
    assert len(made["charsets"]) == len(ALPHABETS) >= 20
    assert {sample.syntax for sample in made["syntaxes"]} >= set(codecs.NAMES) - set(codecs.UNENCODED)
    seen = set()
    for sample in (each for samples in made.values() for each in samples):
        got = read(sample.file)
        assert str(got.file_meta.TransferSyntaxUID) == sample.syntax
        assert str(got.SOPInstanceUID) == sample.instance not in seen
        assert len(str(got.SOPInstanceUID)) <= 64
        seen.add(sample.instance)
        assert "ZZ" in str(got.get("PatientID")), "unmistakably a test"
        assert same_elements(read(sample.file), got) == []
    assert Maker("unit").uid("x") == maker.uid("x") != Maker("other").uid("x")


def test_differences_are_found() -> None:
    maker = Maker("unit")
    one, two = (maker.dataset("a", "b", 1, StudyDescription=text) for text in ("x", "y"))
    assert len(same_elements(one, two)) == 1
    del two.StudyDescription
    assert "lost" in same_elements(one, two)[0]
    assert "added" in same_elements(two, one)[0]
    assert element(0x00100010, "PN", b"abc") == b"\x10\0\x10\0PN\x04\0abc "


def test_reports_say_what_happened() -> None:
    good = judged(lambda c: c.expect("an <answer>", True, "& so on"))
    bad = judged(lambda c: c.expect("status 200", False, "500\x01", about="GET /studies"))
    absent = judged(refusing(NotSupported("406: no XML")))
    report = Report("http://x", "now", (good, bad, absent), ("2.25.1",))
    data = json.loads(as_json(report))
    assert data["mandatory_failures"] == ["T01"]
    assert data["totals"]["mandatory"] == {
        "passed": 1, "failed": 1, "not supported": 1, "not applicable": 0, "error": 0,
    }  # fmt: skip
    suite = ElementTree.fromstring(as_junit(report)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    page = as_html(report)
    assert "an &lt;answer&gt;" in page
    assert "<answer>" not in page
    assert "1 mandatory check failed" in page
    table = as_markdown("Ours", report)
    assert "| T01 | mandatory | PS3.18 1 | a test | 406: no XML |" in table
    assert "request:  GET /studies" in line(bad)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dicomweb", "http://name:password@127.0.0.1:9/dicom-web"),
        ("--dicomweb", "127.0.0.1:9/dicom-web"),
        ("--dicomweb", "http://127.0.0.1:port/dicom-web"),
        ("--dicomweb", "http://127.0.0.1:9/dicom-web", "--json", "/no/such/folder/report.json"),
        ("--dicomweb", "http://127.0.0.1:9/dicom-web", "--html", "/"),
        ("--dicomweb", "http://127.0.0.1:9/dicom-web", "--only", "Q99"),
        ("--dicomweb", "http://127.0.0.1:9/dicom-web", "--service", "none"),
        ("--dicomweb", "http://127.0.0.1:9/dicom-web", "--timeout", "-1"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    assert "password" not in capsys.readouterr().err.replace("passwords go to", "")


def test_headers_given_for_every_request_are_not_told() -> None:
    class Keyed(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.headers["X-Api-Key"] == "hidden" else 401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Keyed) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        web = Web(f"http://127.0.0.1:{server.server_port}", headers=[("X-Api-Key", "hidden")])
        answer = web.get("/studies")
        web.close()
        server.shutdown()
        thread.join()
    assert answer.status == 200
    assert "X-Api-Key: …" in answer.request
    assert "hidden" not in answer.request + repr(answer)


def test_a_run_that_judged_nothing_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listening = f"http://127.0.0.1:{server.server_port}/dicom-web"
        assert main(["--dicomweb", listening, "--only", "M01"]) == 2  # which is about DIMSE
        server.shutdown()
    assert "nothing was judged" in capsys.readouterr().err


WADL = '<application xmlns="http://wadl.dev.java.net/2009/02">{}</application>'


@pytest.mark.parametrize(
    ("inside", "fault"),
    [
        ('<resources base="/"><resource path="studies"><method name="GET"/></resource></resources>', ""),
        ('<doc title="x">any <b xmlns="urn:x">text</b></doc><resources base="/" a:b="c" xmlns:a="urn:a"/>', ""),
        ('<resources base="/"><resource path="a"><method/></resource></resources>', "name is missing"),
        ('<resources base="/"><resource path="a"><method href="#m"/></resource></resources>', ""),
        ('<resources base="/"><resource path="a"><method name="GET"><response status="200 204"/></method></resource>'
         "</resources>", ""),
        ('<resources base="/"><resource path="a"><method name="GET"><response status="ok"/></method></resource>'
         "</resources>", "status is 'ok'"),
        ('<resources base="/"><resource path="a"><param name="x" style="cookie"/></resource></resources>', "style is"),
        ('<resources base="/"><resource path="a"><method name="GET"/><param name="x"/></resource></resources>', "late"),
        ('<resources base="/"><method name="GET"/></resources>', "no element method here"),
        ('<resources base="/" url="x"/>', "no attribute url"),
        ("<grammars/><grammars/>", "grammars more than once"),
        ('<method id="m" name="GET"/><method id="m" name="PUT"/>', "given twice"),
        ("words<resources/>", "text between"),
    ],
)  # fmt: skip
def test_rules_of_wadl(inside: str, fault: str) -> None:
    found = list(wadl.faults(ElementTree.fromstring(WADL.format(inside))))
    assert bool(found) == bool(fault), found
    assert not fault or fault in found[0]


def test_another_root_is_no_wadl() -> None:
    assert list(wadl.faults(ElementTree.fromstring("<application/>"))) == ["the root is application, not application"]
