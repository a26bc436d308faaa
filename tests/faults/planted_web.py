"""Faults of a DICOMweb server, a row each: QIDO-RS, WADO-RS, rendering, STOW-RS, capabilities, UPS-RS, commitment."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

from faults.breaking_proxy import Break, Reply, Request
from faults.planted import Fault
from PIL import Image, ImageOps

from conformance.data import read
from conformance.multipart import Part

Attributes = dict[str, Any]


def asking(change: Callable[[Request], object], path: str = "") -> Break:
    """Requests whose path has `path` in it are changed."""

    def request(request: Request) -> None:
        if re.search(path, request.path):
            change(request)

    return Break(request=request)


def replying(change: Callable[[Reply], object], path: str = "", method: str = "") -> Break:
    """Answers to requests for such paths are changed."""

    def reply(request: Request, reply: Reply) -> None:
        if re.search(path, request.path) and method in ("", request.method):
            change(reply)

    return Break(reply=reply)


def attributes(change: Callable[[Attributes], object], path: str = "") -> Break:
    """Every DICOM JSON object that is answered is changed."""
    return replying(lambda reply: reply.objects(change), path)


def status(before: int, after: int, path: str = "", method: str = "", body: bytes | None = None) -> Break:
    """Another status code."""

    def change(reply: Reply) -> None:
        if reply.status == before:
            reply.status = after
            if body is not None:
                reply.body = body

    return replying(change, path, method)


def parts(change: Callable[[list[Part]], list[Part]], path: str = "") -> Break:
    """Other parts in multipart answers."""
    return replying(lambda reply: reply.parts(change), path)


def contents(change: Callable[[bytes], bytes], path: str = "") -> Break:
    """Other content in each part, or in the body of an answer of one part."""

    def reply(reply: Reply) -> None:
        if reply.header("content-type").startswith("multipart/"):
            reply.parts(lambda found: [Part(each.headers, change(each.content)) for each in found])
        elif reply.status in (200, 206) and not reply.is_json:
            reply.body = change(reply.body)

    return replying(reply, path)


def header(name: str, value: str | None, path: str = "") -> Break:
    """Another header, or none."""

    def change(reply: Reply) -> None:
        had = bool(reply.header(name))
        reply.drop(name)
        if value is not None and had:
            reply.headers[name] = value

    return replying(change, path)


def accept(change: Callable[[str], str], path: str = "") -> Break:
    """Another Accept header than was sent."""

    def request(request: Request) -> None:
        request.headers = {k: change(v) if k.lower() == "accept" else v for k, v in request.headers.items()}

    return asking(request, path)


def pop(*tags: str) -> Callable[[Attributes], object]:
    """Forget attributes."""
    return lambda each: [each.pop(tag, None) for tag in tags]


def put(tag: str, value: Attributes) -> Callable[[Attributes], object]:
    """Set an attribute."""
    return lambda each: each.update({tag: value})


def changed(tag: str, change: Callable[[Any], Any]) -> Callable[[Attributes], object]:
    """Change the first value of an attribute where it has one."""

    def work(each: Attributes) -> None:
        if each.get(tag, {}).get("Value"):
            each[tag]["Value"][0] = change(each[tag]["Value"][0])

    return work


def _lower(each: Attributes) -> Attributes:
    return {tag.lower(): value for tag, value in each.items()}


def _reversed(each: Attributes) -> Attributes:
    return dict(reversed(each.items()))


def _empty_lists(each: Attributes) -> None:
    for value in each.values():
        if set(value) == {"vr"}:
            value["Value"] = []


def _plain_names(each: Attributes) -> None:
    for value in each.values():
        if value.get("vr") == "PN" and value.get("Value"):
            value["Value"] = [(name or {}).get("Alphabetic", "") for name in value["Value"]]


def _inline(each: Attributes) -> None:
    if "BulkDataURI" in each.get("7FE00010", {}):
        each["7FE00010"] = {"vr": "OW", "InlineBinary": "AAAA"}


def _texts(each: Attributes) -> None:
    for value in each.values():
        if value.get("vr") in ("US", "FD", "FL", "UL") and "Value" in value:
            value["Value"] = [str(number) for number in value["Value"]]


def _shuffled() -> Callable[[Reply], None]:
    count = [0]

    def change(reply: Reply) -> None:
        count[0] += 1
        if reply.is_json and reply.status == 200 and count[0] % 2:
            reply.body = json.dumps(json.loads(reply.body)[::-1]).encode()

    return change


def _without_element(content: bytes) -> bytes:
    ds = read(content)
    ds.pop("PatientID", None)
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _picture(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as image:
        kind, turned = image.format, ImageOps.invert(image.convert("L"))
    out = io.BytesIO()
    turned.save(out, kind)
    return out.getvalue()


def _end_later(value: str) -> str:
    first, dash, last = value.partition("-")
    return f"{first}-{int(last) - 1}" if dash and last.isdigit() and len(last) == 8 else value


def _no_closing(reply: Reply) -> None:
    if reply.header("content-type").startswith("multipart/"):
        reply.body = reply.body.rstrip(b"\r\n-")


def _pretend(request: Request) -> Reply | None:
    """Success for a store of which nothing is kept."""
    if request.method != "POST" or not request.path.endswith("/studies"):
        return None
    uids = re.findall(rb"\x08\x00\x18\x00(?:UI..)?\0?([0-9.]{10,64})", request.body)
    stored = (
        [{"00081150": {"vr": "UI", "Value": ["1.2"]}, "00081155": {"vr": "UI", "Value": [uids[0].decode()]}}]
        if uids
        else []
    )
    body = json.dumps([{"00081199": {"vr": "SQ", "Value": stored}}]).encode()
    return Reply(200, {"Content-Type": "application/dicom+json"}, body)


def _failures(change: Callable[[Attributes], object]) -> Callable[[Attributes], None]:
    def work(each: Attributes) -> None:
        for item in each.get("00081198", {}).get("Value", []):
            change(item)

    return work


def _stored(change: Callable[[Attributes], object]) -> Callable[[Attributes], None]:
    def work(each: Attributes) -> None:
        for item in each.get("00081199", {}).get("Value", []):
            change(item)

    return work


def _plain_text(found: list[Part]) -> list[Part]:
    return [Part((("Content-Type", "text/plain"),), each.content) for each in found]


def _traceback(reply: Reply) -> None:
    if reply.status >= 400:
        reply.body = b"Traceback (most recent call last):\n  File x"


def _strict(request: Request, reply: Reply) -> None:
    known = {"limit", "offset", "includefield", "accept", "charset", "fuzzymatching"}
    if any(name.islower() and not name.isdigit() and name not in known for name, _ in request.query):
        reply.status = 400


def _other_label(request: Request) -> None:
    request.query = [("ProcedureStepLabel", "ZZNOTHING")]


def _hide_commitment_failures(each: Attributes) -> None:
    each.pop("00081198", None)


SEARCH = r"/(studies|series|instances)$"
FRAMES = r"/frames/[\d,]+$"
UPS = r"/workitems"

QIDO = (
    Fault("limit is ignored", "C03,C04", asking(lambda r: r.drop("limit"), SEARCH)),
    Fault("no Warning of what remains", "C03", header("warning", None, SEARCH)),
    Fault("offset is ignored", "C05,C07", asking(lambda r: r.drop("offset"), SEARCH)),
    Fault("no match is an empty array", "C02", status(204, 200, SEARCH, body=b"[]")),
    Fault("the order changes", "C06", replying(_shuffled(), SEARCH)),
    Fault("a required attribute is missing", "C10", attributes(pop("00080020"), SEARCH)),
    Fault("a count is wrong", "C14", attributes(changed("00201208", lambda n: int(n) + 1), SEARCH)),
    Fault("Retrieve URL leads nowhere", "C12", attributes(changed("00081190", lambda u: u + "0"), SEARCH)),
    Fault("no Retrieve URL", "C12", attributes(pop("00081190"), SEARCH)),
    Fault("a series lacks its modality", "C15", attributes(pop("00080060"), r"/series$")),
    Fault("an instance lacks its number", "C17", attributes(pop("00200013"), r"/instances$")),
    Fault("ranges leave out their end", "C43", asking(lambda r: r.rewrite("StudyDate", _end_later), SEARCH)),
    Fault("wildcards are letters", "C38", asking(lambda r: r.rewrite("StudyID", lambda v: v.replace("*", "~")))),
    Fault("a UID list is its first", "C47",
          asking(lambda r: r.rewrite("StudyInstanceUID", lambda v: re.split(r"[,\\]", v)[0]))),
    Fault("includefield is ignored", "C22", asking(lambda r: r.drop("includefield"))),
    Fault("a key is ignored", "C29", asking(lambda r: r.drop("StudyID", "00200010"), SEARCH)),
    Fault("modalities are not matched", "C29,C42", asking(lambda r: r.drop("ModalitiesInStudy", "00080061"))),
    Fault("a bad limit is taken", "C08", status(400, 200, SEARCH, body=b"[]")),
    Fault("case does not matter", "C36", asking(lambda r: r.rewrite("PatientID", str.upper), SEARCH)),
    Fault("an unknown field is an error", "C26",
          Break(reply=lambda q, r: setattr(r, "status", 400) if "includefield" in dict(q.query) else None)),
)  # fmt: skip

MODEL = (
    Fault("tags in lower case", "G03", attributes(_lower)),
    Fault("attributes out of order", "G02", attributes(_reversed)),
    Fault("no vr", "G02", attributes(lambda each: [value.pop("vr", None) for value in each.values()])),
    Fault("empty Value arrays", "G07", attributes(_empty_lists)),
    Fault("numbers as texts", "G19", attributes(_texts)),
    Fault("names as texts", "G11", attributes(_plain_names)),
    Fault("group length in JSON", "G03", attributes(put("00080000", {"vr": "UL", "Value": [4]}))),
    Fault(
        "the stored character set is told", "G27s", attributes(put("00080005", {"vr": "CS", "Value": ["ISO_IR 100"]}))
    ),
    Fault("pixels in metadata", "D13", attributes(_inline, "/metadata")),
    Fault("File Meta in metadata", "D14", attributes(put("00020010", {"vr": "UI", "Value": ["1.2"]}), "/metadata")),
    Fault("JSON as text/html", "A39,A05", header("content-type", "text/html", "/metadata")),
    Fault("JSON said to be Latin-1", "A37", header("content-type", "application/dicom+json; charset=iso-8859-1")),
)

WADO = (
    Fault("frames in another order", "D22", parts(lambda found: found[::-1], FRAMES)),
    Fault("a frame too many bytes", "D26", contents(lambda data: data + b"\0\0", FRAMES)),
    Fault("bytes of frames swapped", "D26", contents(lambda data: data[::-1], FRAMES)),
    Fault("a bad frame list is taken", "D23", status(400, 200, "/frames")),
    Fault("a frame that is not there is 200", "D24", status(404, 200, "/frames")),
    Fault("no closing delimiter", "A29", replying(_no_closing)),
    Fault("parts of another type", "A29", parts(_plain_text)),
    Fault("bulk data cut short", "D16", contents(lambda data: data[:-1], "/bulk")),
    Fault("an unknown study is a server error", "D02", status(404, 500, "/studies")),
    Fault("an element is lost", "D07", contents(_without_element, r"/instances/[\d.]+$")),
    Fault("an instance is missing from its study", "D01", parts(lambda found: found[1:] or found, r"/studies/[\d.]+$")),
    Fault("Implicit VR is promised", "A21", accept(lambda v: v.replace("transfer-syntax=1.2.840.10008.1.2", "q=1.0"))),
    Fault("Accept is ignored", "A03,A04", accept(lambda v: "*/*")),
    Fault("q is ignored", "A10", accept(lambda v: v.replace("q=0", "q=1"))),
    Fault("the accept parameter is ignored", "A12,A14", asking(lambda r: r.drop("accept"))),
    Fault("a media type in capitals is refused", "A15",
          Break(reply=lambda q, r: setattr(r, "status", 406) if "DICOM+JSON" in q.headers.get("Accept", "") else None)),
    Fault("the ETag never changes", "B18", header("etag", '"1"')),
    Fault("If-None-Match is ignored", "B17",
          asking(lambda r: [r.headers.pop(key) for key in list(r.headers) if key.lower() == "if-none-match"])),
    Fault("a stack trace for an error", "B13",
          replying(_traceback)),
)  # fmt: skip

RENDERED = (
    Fault("always the first frame", "D36",
          asking(lambda r: setattr(r, "path", re.sub(r"/frames/\d+/", "/frames/1/", r.path)), "/rendered")),
    Fault("viewport is ignored", "D41", asking(lambda r: r.drop("viewport"), "/rendered")),
    Fault("window is ignored", "D43", asking(lambda r: r.drop("window"), "/rendered")),
    Fault("black is white", "D47", contents(_picture, "/rendered")),
    Fault("quality=0 is taken", "D40", asking(lambda r: r.drop("quality"), "/rendered")),
    Fault("a rendering as JSON", "D35", accept(lambda v: "*/*", "/rendered")),
    Fault("PNG is JPEG", "D33,A11", accept(lambda v: "image/jpeg", "/rendered")),
)  # fmt: skip

STOW = (
    Fault("partial success is success", "F02", status(202, 200, "/studies", "POST")),
    Fault("conflict is success", "F03", status(409, 200, "/studies", "POST")),
    Fault("an empty Failed SOP Sequence", "F10", attributes(put("00081198", {"vr": "SQ"}), "/studies")),
    Fault("no Failure Reason", "F03", attributes(_failures(pop("00081197")), "/studies")),
    Fault("a Failure Reason of its own", "F07", attributes(_failures(changed("00081197", lambda _: 1)), "/studies")),
    Fault("no Retrieve URL of what was stored", "F01", attributes(_stored(pop("00081190")), "/studies")),
    Fault("nothing is stored", "C59", Break(request=_pretend)),
    Fault("a broken body is taken", "F04,F20", status(400, 200, "/studies", "POST", body=b"{}")),
    Fault("any Content-Type is taken", "F05", status(415, 200, "/studies", "POST", body=b"{}")),
    Fault("success without closing delimiter", "F17", status(400, 200, "/studies", "POST", body=b"{}")),
)  # fmt: skip

COMMON = (
    Fault("no capabilities", "B08,B09",
          Break(reply=lambda q, r: setattr(r, "status", 404) if q.method == "OPTIONS" else None)),
    Fault("capabilities forget the studies", "B10",
          replying(lambda r: setattr(r, "body", r.body.replace(b"studies", b"shelves")), method="OPTIONS")),
    Fault("405 without Allow", "B02", header("allow", None)),
    Fault("an unknown resource is 400", "B01", status(404, 400)),
    Fault("an unknown parameter is an error", "B04", Break(reply=_strict)),
)  # fmt: skip

UPS_RS = (
    Fault("made is 200", "H01", status(201, 200, UPS + "$", "POST")),
    Fault("no Location", "H01", Break(reply=lambda q, r: (r.drop("location"), r.drop("content-location")))),
    Fault("a UID that exists is taken", "H03", status(409, 201, UPS + "$", "POST")),
    Fault("another first state is taken", "H04", status(400, 201, UPS + "$", "POST")),
    Fault("a Workitem without its label is taken", "H05", status(400, 201, UPS + "$", "POST")),
    Fault("the Transaction UID is told", "H07", attributes(put("00081195", {"vr": "UI", "Value": ["2.25.1"]}), UPS)),
    Fault("an unknown Workitem is 200", "H08", status(404, 200, UPS)),
    Fault("anybody may update", "H11", status(400, 200, UPS, "POST")),
    Fault("what is final may be updated", "H12", status(400, 200, UPS, "POST")),
    Fault("forbidden states are taken", "H16,H19", Break(
        reply=lambda q, r: setattr(r, "status", 200) if "/state" in q.path and r.status in (400, 409) else None)),
    Fault("a completed one may be cancelled", "H28", status(409, 202, "/cancelrequest", "POST")),
    Fault("no Workitem matches", "H31", asking(_other_label, UPS + "$")),
    Fault("keys of Workitems are ignored", "H31",
          asking(lambda r: setattr(r, "query", []) if r.method == "GET" else None, UPS + "$")),
    Fault("a found Workitem lacks its state", "H33", attributes(pop("00741000"), UPS)),
    Fault("no way to the events", "H34", Break(
        reply=lambda q, r: r.drop("content-location") if "/subscribers" in q.path else None)),
    Fault("events without the state", "H41,H43", Break(socket=lambda data: data.replace(b"00741000", b"00741999"))),
    Fault("events of no type", "H41", Break(socket=lambda data: data.replace(b"00001002", b"00001FFF"))),
)  # fmt: skip

COMMITMENT = (
    Fault("everything is committed", "I05", attributes(_hide_commitment_failures, "/commitment-requests")),
    Fault("a transaction twice", "I03", status(409, 200, "/commitment-requests")),
    Fault("any payload is taken", "I04", status(400, 200, "/commitment-requests")),
    Fault("an unknown transaction is 200", "I06", status(404, 200, "/commitment-requests")),
)

SECURITY = (
    Fault("an open door beside the study's", "O07", Break(
        reply=lambda q, r: setattr(r, "status", 200) if r.status == 401 and "/frames" in q.path else None)),
    Fault("no WWW-Authenticate", "B15", header("www-authenticate", None)),
    Fault("programs in preambles", "O04", contents(lambda data: b"MZ" + data[2:], r"/instances/[\d.]+$")),
    Fault("errors name the patient", "O08",
          replying(lambda r: setattr(r, "body", b"ZZCONF- ZZConformance^Alpha^Ann") if r.status >= 400 else None)),
)  # fmt: skip

WEB = (*QIDO, *MODEL, *WADO, *RENDERED, *STOW, *COMMON, *UPS_RS, *COMMITMENT, *SECURITY)
