"""STOW-RS: what is stored, what is refused, and how the answer says so (PS3.18 10.5, annex I): part F."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conformance.check import Level, NotApplicable, NotSupported, check
from conformance.client import JSON, XML, Answer
from conformance.context import Context, outcome, text, values
from conformance.data import CT, SR, Sample, element, part10, ramp
from conformance.multipart import join, related

SERVICE = "STOW-RS"
DICOM = "application/dicom"
PART = f"Content-Type: {DICOM}"


def fresh(c: Context, name: str, **attributes: Any) -> Sample:
    """A small object that was not stored yet, in a study of its own; known for cleaning up."""
    sample = c.maker.sample(name, c.maker.dataset(name, "1", 1, **attributes))
    c.studies.add(sample.study)
    return sample


def send(c: Context, files: Sequence[bytes], path: str = "/studies", accept: str | None = JSON) -> Answer:
    """The answer to a store of Part 10 files."""
    return c.web.post(path, join((PART, file) for file in files), related(DICOM), accept=accept)


def module(c: Context, answer: Answer) -> dict[str, Any]:
    """The Store Instances Response Module of an answer, judged to be one object."""
    try:
        found = answer.objects()
    except ValueError as error:
        c.expect("the response module in DICOM JSON (annex I)", False, error, about=answer)
        return {}
    c.expect_equal("objects in the answer", len(found), 1, about=answer)
    return found[0] if found else {}


def kept(c: Context, sample: Sample) -> bool:
    """Whether the instance can be had."""
    return c.web.get(sample.path + "/metadata").status == 200


@check("F01", "PS3.18 10.5.3", "all good: 200, and an item for each with class, UID and Retrieve URL", service=SERVICE)
def good(c: Context) -> None:
    samples = [fresh(c, "good 1"), fresh(c, "good 2")]
    answer = send(c, [sample.file for sample in samples])
    c.expect_status(answer, 200)
    items = values(module(c, answer), "00081199")
    seen = sorted((text(item, "00081150"), text(item, "00081155")) for item in items)
    c.expect_equal("class and UID", seen, sorted((s.sop_class, s.instance) for s in samples), about=answer)
    for item in items:
        url = text(item, "00081190")
        c.expect("Retrieve URL (0008,1190) in each item", url, about=answer)
        if url.startswith("http"):
            c.expect_status(c.web.request("GET", url, accept=related(DICOM).partition("; boundary")[0]), 200)


@check("F02", "PS3.18 10.5.3", "some refused: 202, with both sequences", service=SERVICE)
def some(c: Context) -> None:
    sample, bad = fresh(c, "some good"), fresh(c, "some bad")
    answer = send(c, [sample.file, bad.file], f"/studies/{sample.study}")
    c.expect_status(answer, 202)
    stored, failed = outcome(answer)
    c.expect_equal("Referenced SOP Sequence", stored, {sample.instance}, about=answer)
    c.expect("Failed SOP Sequence with the other, and a reason", failed.get(bad.instance), failed, about=answer)
    c.expect("the refused one is not kept", not kept(c, bad), about=answer)


@check("F03", "PS3.18 10.5.3", "all refused: 409 with a reason for each", service=SERVICE)
def none(c: Context) -> None:
    bad = fresh(c, "other study")
    answer = send(c, [bad.file], f"/studies/{c.maker.uid('study', 'another')}")
    c.expect_status(answer, 409)
    _, failed = outcome(answer)
    c.expect("Failed SOP Sequence with a Failure Reason (0008,1197)", failed.get(bad.instance), failed, about=answer)
    c.expect("not kept", not kept(c, bad), about=answer)


@check("F04", "PS3.18 10.5.3", "a body that is no multipart: 400", service=SERVICE)
def malformed(c: Context) -> None:
    c.expect_status(c.web.post("/studies", b"this is no multipart", related(DICOM)), 400)


@check("F05", "PS3.18 10.5.3", "a Content-Type that cannot be stored: 415", service=SERVICE)
def wrong_type(c: Context) -> None:
    c.expect_status(c.web.post("/studies", b"hello", "text/plain"), 415)


@check("F07", "PS3.18 I.2", "Failure Reasons are codes that the standard has", service=SERVICE)
def reasons(c: Context) -> None:
    truncated = fresh(c, "truncated", sop_class=SR)
    broken = truncated.file[: 132 + 200] + b"\xff" * 40
    answer = send(c, [broken])
    c.expect_status(answer, 400, 409)
    if answer.status == 409:
        for code in outcome(answer)[1].values():
            known = code in (0x0110, 0x0122, 0x0124, 0xC122) or code >> 8 in (0xA7, 0xA9) or code >> 12 == 0xC
            c.expect("A7xx, A9xx, Cxxx, 0110, 0122, 0124 or C122", known, f"{code:04X}", about=answer)
        c.expect("an item in a failure sequence", outcome(answer)[1] or values(module(c, answer), "0008119A"),
                 about=answer)  # fmt: skip


@check("F09", "PS3.18 I.2", "a part that is no DICOM: the good ones are stored all the same, or 400", service=SERVICE)
def no_dicom(c: Context) -> None:
    sample = fresh(c, "beside garbage")
    answer = send(c, [sample.file, b"this is no DICOM file"])
    if c.expect_status(answer, 202, 400) and answer.status == 202:
        c.expect_equal("stored", outcome(answer)[0], {sample.instance}, about=answer)
        found = module(c, answer)
        c.expect("the other in Failed SOP or Other Failures Sequence (0008,119A)",
                 values(found, "0008119A") or values(found, "00081198"), found, about=answer)  # fmt: skip
    c.expect_equal("kept", kept(c, sample), answer.status == 202, about=answer)


@check("F10", "PS3.18 I.2", "no failures: no Failed SOP Sequence, not an empty one", service=SERVICE)
def no_failures(c: Context) -> None:
    answer = send(c, [fresh(c, "clean").file])
    c.expect_status(answer, 200)
    found = module(c, answer)
    c.expect("no 00081198, no 0008119A", not {"00081198", "0008119A"} & set(found), sorted(found), about=answer)


@check("F11", "PS3.18 I.2", "the answer carries the Retrieve URL of the study", Level.ROBUSTNESS, service=SERVICE)
def study_url(c: Context) -> None:
    sample = fresh(c, "url")
    answer = send(c, [sample.file], f"/studies/{sample.study}")
    url = text(module(c, answer), "00081190")
    c.expect("Retrieve URL (0008,1190) with the study", sample.study in url, url, about=answer)


@check("F11l", "PS3.18 Table 10.5.3-2", "the answer to one new instance names what was made: Location",
       Level.CONDITIONAL, service=SERVICE)  # fmt: skip
def location(c: Context) -> None:
    sample = fresh(c, "location")
    answer = send(c, [sample.file])
    c.expect_status(answer, 200)
    place = answer.header("Location")
    if c.expect("Location with the study of the instance", sample.study in place, place, about=answer):
        c.expect_status(c.web.request("GET", place, accept=related(DICOM).partition("; boundary")[0]), 200)


@check("F12", "PS3.18 10.5.3.3", "the answer as JSON, and as anything", service=SERVICE)
def accept(c: Context) -> None:
    for wanted in (JSON, "*/*"):
        answer = send(c, [fresh(c, f"accept {wanted}").file], accept=wanted)
        c.expect_status(answer, 200)
        c.expect_equal("Content-Type", answer.type, JSON, about=answer)


@check("F12n", "PS3.18 8.7.8.1", "an answer in no acceptable type: 406, and nothing is stored", Level.ROBUSTNESS,
       service=SERVICE)  # fmt: skip
def not_acceptable(c: Context) -> None:
    # 8.7.8.1 holds for every answer with a payload; the table of 10.5.3 does not name 406.
    sample = fresh(c, "accept image")
    answer = send(c, [sample.file], accept="image/jpeg")
    if c.expect_status(answer, 406):
        c.expect("not kept", not kept(c, sample), about=answer)


@check("F12x", "PS3.18 10.5.3.3", "the answer as XML", Level.CONDITIONAL, service=SERVICE)
def accept_xml(c: Context) -> None:
    answer = send(c, [fresh(c, "accept XML").file], accept=XML)
    if answer.status == 406:
        raise NotSupported("406: no XML")
    c.expect_status(answer, 200)
    c.expect("XML", answer.type == XML and b"NativeDicomModel" in answer.body, about=answer)


@check("F14", "RFC 2046 5.1.1", "a preamble before the first delimiter and an epilogue are ignored", service=SERVICE)
def preamble(c: Context) -> None:
    sample = fresh(c, "preamble")
    body = b"This is a preamble.\r\n" + join([(PART, sample.file)]) + b"This is an epilogue.\r\n"
    c.expect_status(c.web.post("/studies", body, related(DICOM)), 200)
    c.expect("kept", kept(c, sample), about=f"GET {sample.path}/metadata")


@check("F15", "RFC 2046 5.1.1", "every legal boundary: 70 characters, punctuation, quoted or not", service=SERVICE)
def boundaries(c: Context) -> None:
    for boundary in ("b", "x" * 70, "a'()+_,-./:=?b", "7f3e6a52-0b1d-4a4e-9c0c-6e2f3f0f9a11"):
        sample = fresh(c, f"boundary {boundary}")
        answer = c.web.post("/studies", join([(PART, sample.file)], boundary), related(DICOM, boundary))
        c.expect_status(answer, 200)
    sample = fresh(c, "boundary unquoted")
    kind = f"multipart/related; type={DICOM}; boundary=plain"
    answer = c.web.post("/studies", join([(PART, sample.file)], "plain"), kind)
    c.expect("200 with unquoted parameters, type=application/dicom among them", answer.status in (200, 400),
             about=answer)  # fmt: skip


@check("F16", "RFC 2046 5.1.1", "text like the boundary within a value is no delimiter", service=SERVICE)
def lookalike(c: Context) -> None:
    inside = b"--conformance-boundary--\r\n--conformance-boundar\r\n-conformance-boundary"
    sample = c.maker.sample("lookalike", c.maker.dataset("lookalike", "1", 1))
    c.studies.add(sample.study)
    sample.file += element(0x0040A160, "UT", b"x" + inside)
    answer = send(c, [sample.file])
    c.expect_status(answer, 200)
    got = c.web.get(sample.path, accept=related(DICOM).partition("; boundary")[0])
    c.expect("the value comes back whole", got.status == 200 and inside in got.body, about=got)


@check("F17", "RFC 2046 5.1.1", "without the closing delimiter: 400, and nothing is half-stored", service=SERVICE)
def unclosed(c: Context) -> None:
    sample = fresh(c, "unclosed")
    body = join([(PART, sample.file)])[: -len("--conformance-boundary--\r\n") - 200]
    answer = c.web.post("/studies", body, related(DICOM))
    c.expect_status(answer, 400, 409)
    c.expect("not kept", not kept(c, sample), about=answer)


@check("F18", "RFC 2387 3.1", "a part without Content-Type is of the type of the whole", Level.ROBUSTNESS,
       service=SERVICE)  # fmt: skip
def untyped(c: Context) -> None:
    sample = fresh(c, "untyped")
    body = b"--b\r\n\r\n" + sample.file + b"\r\n--b--\r\n"
    c.expect_status(c.web.post("/studies", body, related(DICOM, "b")), 200)


@check("F19", "PS3.18 8.7.3", "a part with transfer-syntax= and Content-Location", Level.ROBUSTNESS, service=SERVICE)
def decorated(c: Context) -> None:
    sample = fresh(c, "decorated")
    head = f"Content-Type: {DICOM}; transfer-syntax=1.2.840.10008.1.2.1\r\nContent-Location: urn:x"
    c.expect_status(c.web.post("/studies", join([(head, sample.file)]), related(DICOM)), 200)


@check("F20", "RFC 2046 5.1.1", "multipart without a boundary: 400", service=SERVICE)
def no_boundary(c: Context) -> None:
    body = join([(PART, fresh(c, "no boundary").file)])
    c.expect_status(c.web.post("/studies", body, f'multipart/related; type="{DICOM}"'), 400, 415)


@check("F21", "RFC 2046 5.1.1", "no parts, or an empty one, are no success", Level.ROBUSTNESS, service=SERVICE)
def empty(c: Context) -> None:
    for body in (b"--b--\r\n", join([(PART, b"")], "b"), b""):
        answer = c.web.post("/studies", body, related(DICOM, "b"))
        c.expect("4xx", 400 <= answer.status < 500, about=answer)


@check("F27", "PS3.18 10.5.2", "one instance without multipart: 200 or 415", Level.CONDITIONAL, service=SERVICE)
def single(c: Context) -> None:
    sample = fresh(c, "single")
    answer = c.web.post("/studies", sample.file, DICOM)
    c.expect_status(answer, 200, 400, 415)
    c.expect_equal("kept", kept(c, sample), answer.status == 200, about=answer)
    if answer.status != 200:
        raise NotSupported(f"{answer.status} for a single part")


@check("F28", "PS3.18 10.5", "the same instance again: no failure, and it is there once", Level.PRACTICE,
       service=SERVICE)  # fmt: skip
def again(c: Context) -> None:
    sample = fresh(c, "again")
    for _ in range(2):
        c.expect_status(send(c, [sample.file]), 200, 202)
    answer = c.web.get(f"{sample.series_path}/instances")
    c.expect_equal("instances", len(c.objects(answer)), 1, about=answer)


@check("F29", "PS3.18 10.5", "another content under a known UID: the answer says truly which one is kept",
       Level.PRACTICE, service=SERVICE)  # fmt: skip
def other_content(c: Context) -> None:
    first = fresh(c, "content", SeriesDescription="first")
    c.expect_status(send(c, [first.file]), 200)
    second = c.maker.dataset("content", "1", 1, SeriesDescription="second")
    answer = send(c, [part10(second)])
    c.expect_status(answer, 200, 202, 409)
    found = c.objects(c.web.get(first.path + "/metadata"))
    seen = text(found[0], "0008103E") if found else ""
    refused = bool(outcome(answer)[1])
    warned = any(values(item, "00081196") for item in values(module(c, answer), "00081199"))
    c.expect("refused or warned: the first; else the second",
             seen == "first" if refused else seen in ("first", "second") if warned else seen == "second",
             f"{seen} is kept", about=answer)  # fmt: skip


@check("F31", "PS3.5 9.1", "UIDs that are none are refused, with a reason", Level.ROBUSTNESS, service=SERVICE)
def bad_uids(c: Context) -> None:
    for number, uid in enumerate(("1.2.abc", "2.25." + "1" * 65)):
        ds = c.maker.dataset("bad uid", "1", number)
        ds.SOPInstanceUID = "2.25.1"
        file = part10(ds).replace(b"UI\x06\x002.25.1", b"UI" + (len(uid) + len(uid) % 2).to_bytes(2, "little")
                                  + uid.encode() + b"\0" * (len(uid) % 2))  # fmt: skip
        answer = send(c, [file])
        c.expect("no success", answer.status in (400, 409), uid, about=answer)


@check("F32", "PS3.18 10.5.3", "without SOP Instance UID or Study Instance UID: refused", service=SERVICE)
def missing_uids(c: Context) -> None:
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        answer = send(c, [part10(c.maker.dataset("missing", "1", 1, CT, **{keyword: None}))])
        c.expect("no success", answer.status in (400, 409), keyword, about=answer)


@check("F37", "PS3.18 8.11", "a store with a token that may only read: 403", Level.CONDITIONAL, service=SERVICE)
def read_only(c: Context) -> None:
    if not c.options.read_only_token:
        raise NotApplicable("no --read-only-token was given")
    sample = fresh(c, "read only")
    headers = {"Content-Type": related(DICOM), "Authorization": f"Bearer {c.options.read_only_token}"}
    answer = c.web.request("POST", "/studies", headers=headers, body=join([(PART, sample.file)]))
    c.expect_status(answer, 403)
    c.expect("not kept", not kept(c, sample), about=answer)


@check("F34", "PS3.18 10.5.3", "objects of every character set are taken", service=SERVICE)
def character_sets(c: Context) -> None:
    refused = {sample.name: sample.refused for sample in c.stored("charsets").values() if sample.refused}
    c.expect("every Specific Character Set of PS3.3 C.12.1.1.2", not refused, refused, about="POST /studies")


@check("F40", "PS3.18 10.5", "which transfer syntaxes are taken", Level.CONDITIONAL, service=SERVICE)
def syntaxes(c: Context) -> None:
    samples = c.stored("syntaxes").values()
    refused = [sample.name for sample in samples if sample.refused]
    c.expect("a reason for each that is refused", all(not s.refused or "without" not in s.refused for s in samples),
             refused, about="POST /studies")  # fmt: skip
    if refused:
        raise NotSupported(f"refused: {', '.join(refused)}")


@check("F41", "PS3.18 10.5.1", "a hundred instances in one request", service=SERVICE)
def hundred(c: Context) -> None:
    files = []
    for number in range(100):
        ds = c.maker.dataset("hundred", "1", number, CT, Modality="CT", InstanceNumber=number + 1)
        files.append(c.maker.image(f"{number}", ds, ramp(16, 16, top=4000, dtype="u2"), bits_stored=12).file)
    study = c.maker.uid("study", "hundred")
    c.studies.add(study)
    answer = send(c, files, f"/studies/{study}")
    c.expect_status(answer, 200)
    c.expect_equal("stored", len(outcome(answer)[0]), 100, about=answer)
    found = c.web.get(f"/studies/{study}/metadata")
    c.expect_equal("in the metadata", len(c.objects(found)), 100, about=found)
