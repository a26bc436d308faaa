"""The URI service, WADO-URI (PS3.18 chapter 9): part E. All of it is conditional: a server may do without."""

from __future__ import annotations

from conformance import codecs
from conformance.check import Level, NotSupported, check
from conformance.client import Answer
from conformance.context import Context
from conformance.data import Sample, read

SERVICE = "WADO-URI"


def place(c: Context) -> str:
    """Where the service is: below the base of DICOMweb, or beside it. Raises NotSupported where it is nowhere."""

    def find() -> str:
        base = c.web.base
        for url in (f"{base}/wado", f"{base.rpartition('/')[0]}/wado", base):
            sample = c.sample("images", "ct")
            answer = c.web.request("GET", url, query(sample, "contentType=application%2Fdicom"), accept=None)
            if answer.status == 200 and answer.body[128:132] == b"DICM":
                return url
        return ""

    found = str(c.fact("WADO-URI", find))
    if not found:
        raise NotSupported("neither BASE/wado nor BASE/../wado nor BASE answers requestType=WADO")
    return found


def query(sample: Sample, *more: str) -> str:
    """The query for an object."""
    uids = f"requestType=WADO&studyUID={sample.study}&seriesUID={sample.series}&objectUID={sample.instance}"
    return "&".join((uids, *more))


def ask(c: Context, sample: Sample, *more: str, accept: str | None = "*/*") -> Answer:
    """The answer for an object."""
    return c.web.request("GET", place(c), query(sample, *more), accept=accept)


@check("E01", "PS3.18 9.4.1", "without requestType, or with another: 400", Level.CONDITIONAL, service=SERVICE)
def request_type(c: Context) -> None:
    url, right = place(c), query(c.sample("images", "ct"))
    for wrong in (right.replace("requestType=WADO&", ""), right.replace("=WADO", "=OTHER")):
        c.expect_status(c.web.request("GET", url, wrong, accept="*/*"), 400)


@check("E02", "PS3.18 9.4.1", "without one of the three UIDs: 400", Level.CONDITIONAL, service=SERVICE)
def missing_uids(c: Context) -> None:
    url, parts = place(c), query(c.sample("images", "ct")).split("&")
    for missing in (1, 2, 3):
        wrong = "&".join(part for number, part in enumerate(parts) if number != missing)
        c.expect_status(c.web.request("GET", url, wrong, accept="*/*"), 400)


@check("E03", "PS3.18 9.5", "an image without contentType: image/jpeg", Level.CONDITIONAL, service=SERVICE)
def default_type(c: Context) -> None:
    answer = ask(c, c.sample("images", "ct"))
    if c.expect_status(answer, 200):
        c.expect("a JPEG", answer.type == "image/jpeg" and answer.body[:2] == b"\xff\xd8", about=answer)


@check("E04", "PS3.18 9.4", "contentType=application/dicom: the Part 10 file", Level.CONDITIONAL, service=SERVICE)
def dicom(c: Context) -> None:
    for name in ("ct", "implicit"):
        sample = c.sample("images", name)
        answer = ask(c, sample, "contentType=application/dicom")
        if c.expect_status(answer, 200):
            c.expect_equal("Content-Type", answer.type, "application/dicom", about=answer)
            got = read(answer.body)
            c.expect_equal("SOP Instance UID", str(got.SOPInstanceUID), sample.instance, about=answer)
            syntax = str(got.file_meta.TransferSyntaxUID)
            c.expect_equal("transfer syntax without the parameter (9.4.1.2.2)", syntax, codecs.ELE, about=answer)


@check("E05", "PS3.18 9.4.1.2.2", "transferSyntax: in that one, or in the default", Level.CONDITIONAL, service=SERVICE)
def transfer_syntax(c: Context) -> None:
    sample = c.sample("images", "implicit")
    for asked in (codecs.RLE, codecs.ELE):
        answer = ask(c, sample, "contentType=application%2Fdicom", f"transferSyntax={asked}")
        if c.expect_status(answer, 200, 406) and answer.status == 200:
            syntax = str(read(answer.body).file_meta.TransferSyntaxUID)
            c.expect(
                "the syntax asked for, or Explicit VR Little Endian",
                syntax in (asked, codecs.ELE),
                syntax,
                about=answer,
            )
    answer = ask(c, sample, "contentType=application%2Fdicom", f"transferSyntax={codecs.ILE}")
    c.expect_status(answer, 200, 400, 406)
    if answer.status == 200:
        syntax = str(read(answer.body).file_meta.TransferSyntaxUID)
        c.expect("never Implicit VR Little Endian", syntax != codecs.ILE, syntax, about=answer)


@check("E06", "PS3.18 9.4.1.2.1", "anonymize=yes: de-identified with new UIDs, or refused", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def anonymize(c: Context) -> None:
    sample = c.sample("images", "ct")
    answer = ask(c, sample, "contentType=application%2Fdicom", "anonymize=yes")
    c.expect_status(answer, 200, 400, 403, 406, 501)
    if answer.status != 200:
        raise NotSupported(f"anonymize=yes is refused by {answer.status}")
    got = read(answer.body)
    c.expect("another SOP Instance UID", str(got.SOPInstanceUID) != sample.instance, got.SOPInstanceUID, about=answer)
    c.expect("no patient name", str(got.get("PatientName", "")) != str(sample.dataset.PatientName), about=answer)


@check("E07", "PS3.18 9.5", "a frame beyond the last, or a frame of application/dicom: 400 (404)", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def frames(c: Context) -> None:
    sample = c.sample("images", "frames")
    c.expect_status(ask(c, sample, "frameNumber=2"), 200)
    c.expect_status(ask(c, sample, "frameNumber=4"), 400, 404)
    c.expect_status(ask(c, sample, "frameNumber=2", "contentType=application%2Fdicom"), 400)


@check("E08", "PS3.18 9.5", "windowCenter alone, rows=0, a region outside 0 to 1: 400", Level.CONDITIONAL,
       service=SERVICE)  # fmt: skip
def bad_parameters(c: Context) -> None:
    sample = c.sample("images", "ct")
    for wrong in (
        "windowCenter=40",
        "windowCenter=a&windowWidth=b",
        "rows=0",
        "rows=x",
        "region=0,0,2,2",
        "imageQuality=0",
    ):
        c.expect_status(ask(c, sample, wrong), 400)
    c.expect_status(ask(c, sample, "windowCenter=40&windowWidth=400"), 200)


@check("E09", "PS3.18 9.4", "an unknown object: 404", Level.CONDITIONAL, service=SERVICE)
def unknown(c: Context) -> None:
    sample = c.sample("images", "ct")
    right = query(sample).replace(sample.instance, c.maker.uid("nothing"))
    c.expect_status(c.web.request("GET", place(c), right, accept="*/*"), 404)


@check("E10", "PS3.18 9.5", "a contentType that cannot be: 406", Level.CONDITIONAL, service=SERVICE)
def unsupported(c: Context) -> None:
    c.expect_status(ask(c, c.sample("images", "ct"), "contentType=image%2Ffoo"), 406)
