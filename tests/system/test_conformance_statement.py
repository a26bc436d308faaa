"""Every claimed line of docs/conformance-statement.md, asked of a running server."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_data
import httpx
import pytest
from conftest import RunningServer, start_server
from dicomweb_server import multipart
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.encaps import encapsulate
from pynetdicom import AE, build_context, evt
from websockets.sync.client import connect

from pacs import uids
from pacs.dicom.charsets import decoder

pytestmark = pytest.mark.system

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conformance-statement.md").read_text()
JSON = "application/dicom+json"
EXPLICIT = "1.2.840.10008.1.2.1"


def section(heading: str) -> str:
    """The text under a heading, up to the next of its level or above."""
    found = re.search(rf"^(#+) (?:[\d.]+ )?{re.escape(heading)}$", PAGE, re.MULTILINE)
    assert found, f"the statement has no section {heading!r}"
    rest = PAGE[found.end() :]
    after = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: after.start()] if after else rest


def rows(text: str) -> list[dict[str, str]]:
    """The rows of every table in `text`, by column heading."""
    found: list[dict[str, str]] = []
    head: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
        elif set(cells) != {"---"}:
            found.append(dict(zip(head, cells, strict=True)))
    return found


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def value_for(keyword: str, vr: str, which: int) -> Any:
    """A value of our own for an attribute: another one for study 1 than for study 2."""
    if keyword.endswith("UID"):
        return uids.derived("statement", keyword, which)
    match vr:
        case "DA":
            return f"2024010{which}"
        case "TM":
            return f"0{which}0000"
        case "DT":
            return f"2024010{which}120000"
        case "PN":
            return f"Name{which}^{keyword[:20]}"
        case "CS":
            return f"{keyword[:12].upper()}{which}"
        case "AS":
            return f"00{which}Y"
        case "IS" | "DS" | "US":
            return 10 + which
        case "SH":
            return f"{keyword[:14]}{which}"
        case _:
            return f"{keyword[:40]}{which}"


ATTRIBUTES = {level: rows(section(level)) for level in ("PATIENT", "STUDY", "SERIES", "IMAGE")}
COMPUTED = re.compile(
    r"NumberOf(Patient|Study|Series)Related|InStudy$|InstanceAvailability|RetrieveURL|AvailableTransfer"
)
OURS = ("SOPClassUID", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "TimezoneOffsetFromUTC")


def instance(which: int) -> Dataset:
    """An instance with a value for every attribute of the statement that is no sequence and not computed."""
    ds = dicom_data.image(which)
    for row in (each for level in ATTRIBUTES.values() for each in level):
        keyword, vr = row["keyword"], row["VR"]
        if "." in keyword:
            sequence, inner = keyword.split(".")
            item = getattr(ds, sequence, None) or [Dataset()]
            setattr(item[0], inner, value_for(inner, vr, which))
            setattr(ds, sequence, item)
        elif vr != "SQ" and keyword not in OURS and not COMPUTED.search(keyword):
            setattr(ds, keyword, value_for(keyword, vr, which))
    ds.TimezoneOffsetFromUTC = f"+0{which}00"
    ds.Rows, ds.Columns = (16, 12) if which == 1 else (8, 24)
    ds.NumberOfFrames = 1
    if which == 2:
        ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        ds.NumberOfFrames, ds.Rows, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 2, 8, 8, 8, 7
    return ds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    server = start_server(tmp_path_factory.mktemp("statement") / "data", settings={"M3DICOM_WORKERS": "0"})
    yield server
    server.stop()
    assert "Traceback" not in "".join(server.output)


@pytest.fixture(scope="module")
def web(server: RunningServer) -> Iterator[httpx.Client]:
    """A client of the server, in which the two instances are stored."""
    with server.client() as client:
        for which in (1, 2):
            store(client, dicom_data.part10(instance(which)))
        yield client


def store(web: httpx.Client, *files: bytes) -> httpx.Response:
    content_type = 'multipart/related; type="application/dicom"; boundary=statement'
    answer = web.post("/studies", content=multipart(list(files), "statement"), headers={"Content-Type": content_type})
    assert answer.status_code == 200, answer.text
    return answer


# --- Networking -------------------------------------------------------------------------------------------------------


def accepted(server: RunningServer, contexts: list[Any]) -> set[tuple[str, str]]:
    """Which of these presentation contexts, of one transfer syntax each, an association is accepted with."""
    host, port = server.dimse
    taken: set[tuple[str, str]] = set()
    for first in range(0, len(contexts), 128):
        ae = AE("STATEMENT")
        assoc = ae.associate(host, port, contexts[first : first + 128], ae_title=server.ready["aet"])
        assert assoc.is_established
        taken |= {(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in assoc.accepted_contexts}
        assoc.release()
    return taken


def test_every_sop_class_in_every_message_syntax(server: RunningServer) -> None:
    text = section("Presentation contexts accepted")
    syntaxes = code(text.split("|")[0])
    classes = [uid for row in rows(text) for uid in code(row["UID"])]
    assert len(syntaxes) >= 2
    assert len(classes) >= 12
    claimed = {(uid, ts) for uid in classes for ts in syntaxes}
    assert accepted(server, [build_context(*each) for each in sorted(claimed)]) == claimed
    overview = rows(section("Network services"))
    assert {row["as SCP"] for row in overview} == {"yes"}


def test_every_storage_class_and_transfer_syntax(server: RunningServer) -> None:
    classes = [code(row["UID"])[0] for row in rows(section("Storage SOP Classes"))]
    syntaxes = [code(row["UID"])[0] for row in rows(section("Transfer syntaxes")) if row["stored"] == "yes"]
    assert (len(classes) > 150, len(syntaxes) > 50) == (True, True)
    claimed = {(uid, EXPLICIT) for uid in classes} | {("1.2.840.10008.5.1.4.1.1.2", ts) for ts in syntaxes}
    assert accepted(server, [build_context(*each) for each in sorted(claimed)]) == claimed


def test_association_policies(server: RunningServer) -> None:
    policies = {row[""]: row["value"] for row in rows(section("Association policies"))}
    host, port = server.dimse
    found: dict[str, Any] = {}

    def seen(event: Any) -> None:
        if type(event.pdu).__name__ == "A_ASSOCIATE_AC":
            found["ac"] = event.pdu

    assoc = AE("STATEMENT").associate(
        host, port, [build_context("1.2.840.10008.1.1")], ae_title=server.ready["aet"],
        evt_handlers=[(evt.EVT_PDU_RECV, seen)],
    )  # fmt: skip
    assert assoc.is_established
    assoc.release()
    assert policies["Application Context Name"] == found["ac"].application_context_name
    length = found["ac"].user_information.maximum_length
    assert policies["maximum length of a P-DATA-TF PDU received"] == f"{length} bytes"
    implementation = section("Configuration")
    assert f"`{assoc.acceptor.implementation_class_uid}`" in implementation
    assert f"`{assoc.acceptor.implementation_version_name}`" in implementation
    refused = AE("STATEMENT").associate(host, port, [build_context("1.2.840.10008.1.1")], ae_title="SOMEBODY")
    assert policies["called AE title"] == "has to be ours"
    assert refused.is_rejected


# --- Queries ----------------------------------------------------------------------------------------------------------

RESOURCE = {"PATIENT": "/studies", "STUDY": "/studies", "SERIES": "/series", "IMAGE": "/instances"}


def held(which: int, keyword: str) -> Any:
    ds = instance(which)
    for part in keyword.split("."):
        found = getattr(ds, part, None)
        ds = found[0] if dictionary_VR(tag_for_keyword(part) or 0) == "SQ" and found else ds
    return found


@pytest.mark.parametrize("level", ATTRIBUTES)
def test_every_matching_key_filters(web: httpx.Client, level: str) -> None:
    """By keyword and by tag, a value of one of the two instances finds that one alone."""
    for row in ATTRIBUTES[level]:
        keyword, vr = row["keyword"], row["VR"]
        if vr == "SQ" or row["matching"] == "no" or COMPUTED.search(keyword):
            continue
        value = held(1, keyword)
        assert str(value) != str(held(2, keyword)), keyword
        tag = code(row["tag"])[0].replace("(", "").replace(")", "").replace(",", "")
        for name in (keyword, tag):
            answer = web.get(RESOURCE[level], params={name: str(value), "includefield": "00200010"})
            assert answer.status_code == 200, (keyword, answer.status_code, answer.text[:200])
            assert "warning" not in answer.headers, keyword
            studies = [item["0020000D"]["Value"][0] for item in answer.json()]
            assert studies == [instance(1).StudyInstanceUID], keyword
        if "wild card" in row["matching"] and vr != "UI":
            wild = str(value)[:-1] + "*" if vr != "PN" else "name1*"
            answer = web.get(RESOURCE[level], params={keyword: wild})
            assert answer.status_code == 200, keyword
            assert instance(1).StudyInstanceUID in answer.text, keyword
        if "range" in row["matching"]:
            answer = web.get(RESOURCE[level], params={keyword: f"-{value}"})
            assert [item["0020000D"]["Value"][0] for item in answer.json()] == [instance(1).StudyInstanceUID], keyword


COMPUTED_VALUES = {
    "ModalitiesInStudy": (value_for("Modality", "CS", 1), True), "SOPClassesInStudy": (instance(1).SOPClassUID, True),
    "NumberOfStudyRelatedSeries": ("1", False), "NumberOfStudyRelatedInstances": ("1", False),
    "NumberOfSeriesRelatedInstances": ("1", False), "NumberOfPatientRelatedStudies": ("1", False),
    "NumberOfPatientRelatedSeries": ("1", False), "NumberOfPatientRelatedInstances": ("1", False),
    "InstanceAvailability": ("ONLINE", False), "AvailableTransferSyntaxUID": (EXPLICIT, False),
    "RetrieveURL": ("", False),
}  # fmt: skip
"""A value that the first study has, and whether it is the only one."""


@pytest.mark.parametrize("level", ATTRIBUTES)
def test_computed_keys_filter(web: httpx.Client, level: str) -> None:
    for row in ATTRIBUTES[level]:
        keyword = row["keyword"]
        if not COMPUTED.search(keyword) or row["matching"] == "no" or level == "PATIENT":
            continue
        value, alone = COMPUTED_VALUES[keyword]
        answer = web.get(RESOURCE[level], params={keyword: value})
        assert (answer.status_code, "warning" in answer.headers) == (200, False), (keyword, answer.text[:200])
        assert instance(1).StudyInstanceUID in answer.text
        assert (instance(2).StudyInstanceUID in answer.text) is not alone, keyword


@pytest.mark.parametrize("level", ATTRIBUTES)
def test_what_is_returned(web: httpx.Client, level: str) -> None:
    study = {"StudyInstanceUID": instance(1).StudyInstanceUID}
    [plain] = web.get(RESOURCE[level], params=study).json()
    names = ",".join(row["keyword"].split(".")[0] for row in ATTRIBUTES[level])
    [asked] = web.get(RESOURCE[level], params=study | {"includefield": names}).json()
    for row in ATTRIBUTES[level]:
        tag = code(row["tag"])[0].strip("()").replace(",", "")[:8]
        if row["returned"] == "always":
            assert tag in plain, row
        elif row["returned"] == "when asked for":
            assert tag not in plain, row
        if row["VR"] != "SQ" and not COMPUTED.search(row["keyword"]):
            assert tag in asked, row


def test_every_key_of_c_find(server: RunningServer, web: httpx.Client) -> None:
    """Each attribute asked for at its level over DIMSE is in the answer, which is FF00H: none is unsupported."""
    host, port = server.dimse
    uid = "1.2.840.10008.5.1.4.1.2.1.1"
    assoc = AE("STATEMENT").associate(host, port, [build_context(uid)], ae_title=server.ready["aet"])
    assert assoc.is_established
    above = {"PATIENT": (), "STUDY": ("PatientID",), "SERIES": ("PatientID", "StudyInstanceUID"),
             "IMAGE": ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")}  # fmt: skip
    for level, attributes in ATTRIBUTES.items():
        identifier = Dataset()
        wanted = [row["keyword"] for row in attributes if row["VR"] != "SQ" and "." not in row["keyword"]
                  and row["keyword"] != "RetrieveURL"]  # fmt: skip
        for keyword in wanted:
            setattr(identifier, keyword, None)
        for keyword in above[level]:
            setattr(identifier, keyword, getattr(instance(1), keyword))
        if level == "PATIENT":
            identifier.PatientID = instance(1).PatientID
        identifier.QueryRetrieveLevel = level
        answers = list(assoc.send_c_find(identifier, uid))
        assert [status.Status for status, _ in answers] == [0xFF00, 0x0000], level
        missing = [keyword for keyword in wanted if keyword not in answers[0][1]]
        assert not missing, (level, missing)
    assoc.release()


# --- Web services -----------------------------------------------------------------------------------------------------

SAMPLES = {
    "accept": "*/*", "charset": "utf-8", "{attribute}": None, "fuzzymatching": "true", "includefield": "StudyDate",
    "limit": "5", "offset": "0", "emptyvaluematching": "true", "multiplevaluematching": "true",
    "annotation": "patient,technique", "quality": "80", "viewport": "8,8", "window": "40,400,linear",
    "iccprofile": "srgb", "{workitem}": None, "transaction-uid": "1.2.3", "deletionlock": "true", "filter": None,
    "since": "0", "wait": "0", "requestType": "WADO", "studyUID": instance(1).StudyInstanceUID,
    "seriesUID": instance(1).SeriesInstanceUID, "objectUID": instance(1).SOPInstanceUID, "contentType": "image/jpeg",
    "transferSyntax": None, "anonymize": None, "frameNumber": "1", "imageAnnotation": "patient", "imageQuality": "80",
    "rows": "8", "columns": "8", "region": "0,0,0.5,0.5", "windowCenter": "40", "windowWidth": "400",
    "presentationSeriesUID": None, "presentationUID": None,
}  # fmt: skip
"""A value for each parameter; None where it cannot be given to just any resource (other tests do)."""

WORKITEM = {
    "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
    "00741200": {"vr": "CS", "Value": ["MEDIUM"]},
    "00741204": {"vr": "LO", "Value": ["statement"]},
    "00404005": {"vr": "DT", "Value": ["20260101120000"]},
    "00404041": {"vr": "CS", "Value": ["READY"]},
    "00404018": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["S"]},
                                        "00080102": {"vr": "SH", "Value": ["99TEST"]},
                                        "00080104": {"vr": "LO", "Value": ["s"]}}]},
}  # fmt: skip


def resources() -> list[dict[str, str]]:
    web = section("Web services")
    return [row for row in rows(web) if "method and resource" in row]


def addressed(path: str, ds: Dataset, workitem: str, transaction: str = "") -> str:
    for name, value in (
        ("{study}", ds.StudyInstanceUID), ("{series}", ds.SeriesInstanceUID), ("{instance}", ds.SOPInstanceUID),
        ("{frames}", "1"), ("{path}", "7FE00010"), ("{workitem}", workitem), ("{requester}", "STATEMENT"),
        ("{aetitle}", "STATEMENT"), ("{transaction}", transaction or uids.new()),
    ):  # fmt: skip
        path = path.replace(name, value)
    assert "{" not in path, f"{path} has a part that this test knows no value for"
    return path


def test_every_resource_answers(web: httpx.Client) -> None:
    """Each method of each resource, in each media type and with each parameter that is claimed for it."""
    found = resources()
    assert len(found) > 40
    # The second instance has two frames, so that frameNumber means something.
    ds = instance(2)
    workitem = uids.new()
    assert web.post("/workitems", params=workitem, json=WORKITEM, headers={"Content-Type": JSON}).status_code == 201
    transaction = uids.new()
    reference = {
        "00081150": {"vr": "UI", "Value": [ds.SOPClassUID]},
        "00081155": {"vr": "UI", "Value": [ds.SOPInstanceUID]},
    }
    asked = [{"00081199": {"vr": "SQ", "Value": [reference]}}]
    answer = web.post(f"/commitment-requests/{transaction}", json=asked, headers={"Content-Type": JSON})
    assert answer.status_code in (200, 202), answer.text
    for row in found:
        method, _, path = code(row["method and resource"])[0].partition(" ")
        if method == "DELETE" and path.startswith("/studies"):
            continue
        where = addressed(path, ds, workitem, transaction)
        payload = code(row["takes"])
        types = code(row["answers in"]) or ["*/*"]
        named = {"studyUID": ds.StudyInstanceUID, "seriesUID": ds.SeriesInstanceUID, "objectUID": ds.SOPInstanceUID}
        needed = {"requestType": "WADO", **named} if path == "/wado" else {}
        options = web.options(where)
        assert options.status_code == 200, (where, options.status_code)
        statuses = {}
        for media_type in types:
            headers = {"Accept": media_type} | ({"Content-Type": payload[0]} if payload else {})
            answer = web.request(method, where, headers=headers, params=needed)
            assert answer.status_code not in (404, 405, 415, 500, 501), (method, where, media_type, answer.text[:300])
            statuses[media_type] = answer.status_code
        if method == "GET":
            assert any(status in (200, 204, 206) for status in statuses.values()), (where, statuses)
        for name in code(row["parameters"]) if method == "GET" else []:
            value = (SAMPLES | needed)[name]
            if value is not None:
                extra = {"windowCenter": "40", "windowWidth": "400"} if name.startswith("windowC") else {}
                extra |= {"windowCenter": "40"} if name == "windowWidth" else {}
                answer = web.get(where, params={**needed, **extra, name: value})
                assert answer.status_code in (200, 204, 206), (where, name, answer.status_code, answer.text[:200])
                assert "not supported" not in answer.headers.get("warning", ""), (where, name)


def test_deletion_as_claimed(web: httpx.Client) -> None:
    for number, row in enumerate(each for each in resources() if "`DELETE /studies" in each["method and resource"]):
        names = {name: uids.derived("statement deletion", name, number) for name in
                 ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")}  # fmt: skip
        ds = dicom_data.image(1, **names)
        store(web, dicom_data.part10(ds))
        _, _, path = code(row["method and resource"])[0].partition(" ")
        assert web.delete(addressed(path, ds, "")).status_code in (200, 204)
        assert web.get(f"/studies/{ds.StudyInstanceUID}/metadata").status_code in (404, 410)


def test_every_payload_type_is_taken(web: httpx.Client) -> None:
    """A body of each type that is claimed is not answered with 415; one of a type that is not is."""
    for row in resources():
        method, _, path = code(row["method and resource"])[0].partition(" ")
        if not code(row["takes"]):
            continue
        where = addressed(path, instance(1), uids.new())
        for payload in code(row["takes"]):
            boundary = "; boundary=b" if payload.startswith("multipart") else ""
            answer = web.request(method, where, content=b"--b--", headers={"Content-Type": payload + boundary})
            assert answer.status_code in (400, 404, 409), (where, payload, answer.status_code)
        answer = web.request(method, where, content=b"x", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415, (where, answer.status_code)


def test_every_socket_opens(server: RunningServer, web: httpx.Client) -> None:
    found = rows(section("Notifications"))
    assert len(found) >= 3
    headers = {"Authorization": web.headers["Authorization"]}
    for row in found:
        path = code(row["WebSocket address"])[0].replace("{aetitle}", "STATEMENT")
        where = f"{server.dicomweb.replace('http', 'ws', 1)}{path}"
        with connect(where, additional_headers=headers, open_timeout=60) as socket:
            assert socket.response is not None
            assert socket.response.status_code == 101


def test_every_transfer_syntax_over_the_web(web: httpx.Client) -> None:
    """Stored in each syntax that is claimed; a plain instance had in each that can be made, and in no other."""
    ds = dicom_data.image(
        1, Rows=64, Columns=64, BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes(range(64)) * 64
    )
    ds.SOPInstanceUID, ds.StudyInstanceUID = uids.derived("syntax", 1), uids.derived("syntax", 2)
    store(web, dicom_data.part10(ds))
    url = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    files: dict[str, bytes] = {}
    for number, row in enumerate(rows(section("Transfer syntaxes"))):
        [ts] = code(row["UID"])
        files[ts] = in_syntax(number, ts)
        answer = web.get(url, headers={"Accept": f"application/dicom; transfer-syntax={ts}"})
        if ts == "1.2.840.10008.1.2" or row["made"] == "no":
            assert answer.status_code == 406, (row, answer.status_code)
        else:
            assert answer.status_code == 200, (row, answer.text[:200])
            assert ts.encode() in answer.content[:400], row
    for ts, file in files.items():
        content_type = 'multipart/related; type="application/dicom"; boundary=statement'
        answer = web.post("/studies", content=multipart([file], "statement"), headers={"Content-Type": content_type})
        assert answer.status_code == 200, (ts, answer.text)


def in_syntax(number: int, ts: str) -> bytes:
    """A file whose File Meta says `ts`; of compressed pixels only the frame around them is real."""
    ds = dicom_data.image(number, SOPInstanceUID=uids.derived("in syntax", ts))
    if ts in ("1.2.840.10008.1.2", EXPLICIT, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"):
        return dicom_data.part10(ds, ts)  # type: ignore[arg-type]
    del ds.PixelData
    raw = dicom_data.part10(ds, EXPLICIT)  # type: ignore[arg-type]
    meta_end = 144 + int.from_bytes(raw[140:144], "little")
    dataset = raw[meta_end:]
    if ts.endswith(("4.95", "4.205")):
        packer = zlib.compressobj(wbits=-15)
        dataset = packer.compress(dataset) + packer.flush()
        dataset += b"\0" * (len(dataset) % 2)
    elif not ts.endswith(("4.94", "4.204")):
        fragments = encapsulate([b"\xff\xd8 no codestream "]) + b"\xfe\xff\xdd\xe0\0\0\0\0"
        dataset += b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + fragments
    element = b"\x02\x00\x10\x00UI"
    at = raw.index(element)
    length = int.from_bytes(raw[at + 6 : at + 8], "little")
    uid = ts.encode() + b"\0" * (len(ts) % 2)
    meta = raw[144:at] + element + len(uid).to_bytes(2, "little") + uid + raw[at + 8 + length : meta_end]
    return raw[:140] + len(meta).to_bytes(4, "little") + meta + dataset


TEXTS = {
    "100": "Müller", "101": "Łódź", "109": "Ĥĝ", "110": "ĀŪ", "144": "Люксембург", "127": "قباني", "126": "Διονυσιος",
    "138": "שרון", "148": "Çavuşoğlu", "203": "Œuvre", "13": "ﾔﾏﾀﾞ", "166": "นามสกุล", "6": "plain",
    "87": "山田", "149": "김희중", "58": "张三", "159": "丂", "192": "Zürich 山", "GB18030": "王小东", "GBK": "王小东",
}  # fmt: skip
ESCAPED = {"87": b"\x1b$B;3ED\x1b(B", "149": b"\x1b$)C" + "김희중".encode("euc_kr"),
           "58": b"\x1b$)A" + "张三".encode("gb2312"), "159": b"\x1b$(D" + b"\x30\x21" + b"\x1b(B"}  # fmt: skip
CODECS = {
    "100": "latin-1", "101": "iso8859-2", "109": "iso8859-3", "110": "iso8859-4", "144": "iso8859-5",
    "127": "iso8859-6", "126": "iso8859-7", "138": "iso8859-8", "148": "iso8859-9", "203": "iso8859-15",
    "13": "shift_jis", "166": "tis-620", "6": "ascii", "192": "utf-8", "GB18030": "gb18030", "GBK": "gbk",
}  # fmt: skip


def test_every_character_set(web: httpx.Client) -> None:
    [row] = rows(section("Character sets"))
    terms = [term.strip() for cell in row.values() for term in cell.split(",")]
    assert len(terms) >= 30
    for number, term in enumerate(terms):
        name = term.removeprefix("ISO 2022 IR ").removeprefix("ISO_IR ")
        text = TEXTS[name]
        raw = ESCAPED[name] if name in ESCAPED else text.encode(CODECS[name])
        values = ("", term) if name in ESCAPED else (term,)
        assert decoder(values)(raw) == text, term
        names = {"SOPInstanceUID": uids.derived("charset", term), "StudyInstanceUID": uids.derived(term)}
        ds = dicom_data.image(1, SpecificCharacterSet="ISO_IR 100", StudyID=str(number), **names)
        ds.PatientComments = "@" * (len(raw) + len(raw) % 2)
        declared = "\\".join(values).encode()
        declared += b" " * (len(declared) % 2)
        file = dicom_data.part10(ds)
        for old, new in (
            (b"CS\x0a\x00ISO_IR 100", b"CS" + len(declared).to_bytes(2, "little") + declared),
            (ds.PatientComments.encode(), raw + b" " * (len(raw) % 2)),
        ):
            assert file.count(old) == 1
            file = file.replace(old, new)
        answer = store(web, file)
        url = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
        [metadata] = json.loads(web.get(f"{url}/metadata").content)
        assert metadata["00104000"]["Value"] == [text], term


def test_what_is_not_supported(web: httpx.Client) -> None:
    for path in ("/modality-scheduled-procedure-steps", f"/modality-performed-procedure-steps/{uids.new()}"):
        for method in ("GET", "POST"):
            assert web.request(method, path).status_code == 404
    ds = instance(1)
    query = {"requestType": "WADO", "studyUID": ds.StudyInstanceUID, "seriesUID": ds.SeriesInstanceUID,
             "objectUID": ds.SOPInstanceUID, "anonymize": "yes", "contentType": "application/dicom"}  # fmt: skip
    assert web.get("/wado", params=query).status_code == 406
