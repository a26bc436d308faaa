"""Faults of a DICOMweb server, a row each, for checks that no other row is for; also of what a good server lacks."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from faults.breaking_proxy import Break, Part, Reply, Request
from faults.planted import Fault
from faults.planted_web import (
    FRAMES,
    SEARCH,
    UPS,
    Attributes,
    _picture,
    accept,
    asking,
    attributes,
    changed,
    contents,
    header,
    parts,
    pop,
    put,
    replying,
    status,
)
from faults.planted_web_more import _fewer, _first_object, accepts, refusing
from pydicom import Dataset

from conformance.data import read

INSTANCE = r"/instances/[\d.]+$"


def edited(change: Callable[[Dataset], object], path: str = INSTANCE) -> Break:
    """Every object that is given back is changed."""

    def work(content: bytes) -> bytes:
        ds = read(content)
        change(ds)
        out = io.BytesIO()
        ds.save_as(out, enforce_file_format=True)
        return out.getvalue()

    return contents(work, path)


def spoilt(data: bytes) -> bytes:
    """Some bytes near the end, but within the pixels, are others."""
    return data[:-20] + bytes(byte ^ 0x55 for byte in data[-20:-12]) + data[-12:]


def given(request: Request, name: str) -> str:
    """The last value of a query parameter; empty where it is absent."""
    return dict(request.query).get(name, "")


def posting(before: tuple[int, ...], after: int) -> Break:
    """Another status for a POST to the studies."""
    return Break(reply=lambda q, r: setattr(r, "status", after) if q.method == "POST" and r.status in before else None)


def relabelled(kind: str) -> Callable[[list[Part]], list[Part]]:
    """Every part says that it is of this type."""
    return lambda found: [Part((("Content-Type", kind),), each.content) for each in found]


def pretending(method: str, path: str, answer: Reply) -> Break:
    """Such requests are answered without being done."""
    return Break(request=lambda r: answer if r.method == method and re.search(path, r.path) else None)


def _objects(keep: Callable[[list[Any]], list[Any]]) -> Callable[[Reply], None]:
    def change(reply: Reply) -> None:
        if reply.is_json and reply.status == 200:
            reply.body = json.dumps(keep(json.loads(reply.body))).encode()

    return change


def _reversed_with_fields(request: Request, reply: Reply) -> None:
    if given(request, "includefield"):
        _objects(lambda found: found[::-1])(reply)


def _dates_by_themselves(request: Request, reply: Reply) -> None:
    if given(request, "StudyDate") and given(request, "StudyTime"):
        _objects(lambda found: [each for each in found if each["00080030"]["Value"] != ["143000"]])(reply)


def _first_of_two(request: Request) -> None:
    request.query = list(dict(request.query).items())


def _nothing_empty(request: Request) -> None:
    if any(not value for _, value in request.query):
        request.rewrite("AccessionNumber", lambda _: "ZZNO")


def _no_lower_tags(request: Request) -> None:
    request.query = [(n, v) for n, v in request.query if not re.fullmatch("[0-9a-f]{8}", n) or n == n.upper()]


def _literal(request: Request) -> None:
    if given(request, "fuzzymatching"):
        request.drop("fuzzymatching")
        request.rewrite("PatientName", lambda _: "ZZNO")


def _warned(request: Request, reply: Reply) -> None:
    if given(request, "fuzzymatching"):
        reply.headers["Warning"] = "299 x: The fuzzymatching parameter is not supported."


def _annotated(request: Request) -> None:
    request.drop("annotation")
    request.query.append(("annotation", "patient"))


def _one_fails(each: Attributes) -> None:
    kept = each.get("00081199", {}).get("Value", [])
    if kept:
        item = kept.pop(0) | {"00081197": {"vr": "US", "Value": [0xC000]}}
        each["00081198"] = {"vr": "SQ", "Value": [item]}


def _one_unnamed(each: Attributes) -> None:
    each.get("00081199", {}).get("Value", [None])[:] = each.get("00081199", {}).get("Value", [None])[1:]


def _silent_refusal(request: Request, reply: Reply) -> None:
    if request.method == "POST" and reply.status in (202, 409):
        reply.status = 200
        reply.objects(pop("00081198", "00081196"))
        reply.objects(lambda each: [item.pop("00081196", 0) for item in each.get("00081199", {}).get("Value", [])])


def _gone_when_done(request: Request, reply: Reply) -> None:
    if request.method == "GET" and "/workitems/" in request.path and b"COMPLETED" in reply.body:
        reply.status = 404


def _added(each: Attributes) -> None:
    each.get("00404018", {}).get("Value", []).append({"00080100": {"vr": "SH", "Value": ["zz1"]}})


def _baseline_unlabelled(found: list[Part]) -> list[Part]:
    return [Part((("Content-Type", each.header("Content-Type").split(";")[0]),), each.content) for each in found]


def _other_syntax(content: bytes) -> bytes:
    return re.sub(rb"1\.2\.840\.10008\.1\.2\.[15]\0", b"1.2.840.10008.1.2.2\0", content, count=1)


NEGOTIATION = (
    Fault("without Accept it fails", "A01", refusing(500, lambda r: not accepts(r))),
    Fault("q is not read", "A09,A09x", accept(lambda v: re.sub(r";\s*q=[\d.]+", "", v))),
    Fault('type="*/*" is refused', "A18", refusing(406, lambda r: 'type="*/*"' in accepts(r))),
    Fault("application/json alone is a bad request", "A20j", refusing(400, lambda r: accepts(r) == "application/json")),
    Fault("Implicit VR leaves as it is", "A23",
          contents(lambda d: d.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0", 1), INSTANCE)),
    Fault("what is lossy is not said to be", "A25", edited(lambda ds: ds.pop("LossyImageCompression", None))),
    Fault("pixels are spoilt", "A28,A41,D30,D32,F22,F24,G37,G38", contents(spoilt, INSTANCE)),
    Fault("every image is called a JPEG", "A31", parts(relabelled("image/jpeg"), FRAMES)),
    Fault("parts do not say their syntax", "A32", parts(_baseline_unlabelled, FRAMES)),
    Fault("a single part of another type", "A33", header("content-type", "application/octet-stream", INSTANCE)),
    Fault("a single frame too long", "A34", contents(lambda data: data + b"\0\0", FRAMES)),
    Fault("an unknown charset is a server error", "A36", refusing(500, lambda r: "x-none" in str(r.headers))),
    Fault("no Vary for what may be kept", "A38v", Break(reply=lambda q, r: (r.drop("vary"), r.drop("cache-control")))),
    Fault("all parts say one type", "A40", parts(relabelled("application/octet-stream"), "/pixeldata$")),
    Fault("what cannot be is promised", "A27,F12n", status(406, 200)),
)  # fmt: skip

COMMON = (
    Fault("the last of two is taken", "B06,C35", asking(_first_of_two, SEARCH)),
    Fault("queries are decoded twice", "B07", asking(lambda r: r.rewrite("PatientID", unquote), SEARCH)),
    Fault("a described resource is not there", "B10m",
          replying(lambda r: setattr(r, "body", r.body.replace(b"instances", b"instants")), method="OPTIONS")),
    Fault("a description in words of its own", "B08s",
          replying(lambda r: setattr(r, "body", r.body.replace(b'style="', b'kind="')), method="OPTIONS")),
    Fault("a description in an order of its own", "B08s",
          replying(lambda r: setattr(
              r, "body", r.body.replace(b"</resources>", b"<doc/></resources>")), method="OPTIONS")),
    Fault("what is claimed is warned about", "B11", Break(reply=_warned)),
    Fault("a preflight that does not allow GET", "B12", header("access-control-allow-methods", "PUT")),
    Fault("who may read may store", "B16,F37", posting((403,), 200)),
    Fault("Expect is refused", "B20", refusing(417, lambda r: "100-continue" in str(r.headers))),
    Fault("a trailing slash is another resource", "B22", refusing(404, lambda r: r.path.endswith("/studies/"))),
    Fault("503 without Retry-After", "B14", refusing(503, lambda r: r.path.endswith("/studies")), absent=True),
)  # fmt: skip

SEARCHES = (
    Fault("fields change the order", "C06r", Break(reply=_reversed_with_fields)),
    Fault("availability of its own", "C13", attributes(put("00080056", {"vr": "CS", "Value": ["SOMEWHERE"]}), SEARCH)),
    Fault("a series forgets its request", "C16", attributes(pop("00400275"), "/series$")),
    Fault("what was matched is not told", "C27", attributes(pop("00400244"), "/series$")),
    Fault("tags have capitals", "C33", asking(_no_lower_tags, SEARCH)),
    Fault("the second key is ignored", "C34", asking(lambda r: r.drop("StudyDate"), SEARCH)),
    Fault("an empty key matches nothing", "C37e", asking(_nothing_empty, SEARCH)),
    Fault("wildcards are letters in names", "C38p,C56w",
          asking(lambda r: r.rewrite("PatientName", lambda v: v.replace("*", "~")))),
    Fault("case matters in whole names alone", "C39",
          asking(lambda r: r.rewrite("PatientName", lambda v: v if "*" in v or v != v.lower() else "ZZNO"), SEARCH)),
    Fault("ranges are ignored", "C45", asking(lambda r: r.drop("StudyDate", "StudyTime"), SEARCH)),
    Fault("date and time are matched apart", "C45c", Break(reply=_dates_by_themselves)),
    Fault("fuzzy is literal without a word", "C49", asking(_literal, SEARCH)),
    Fault("emptyvaluematching without a word", "C51", asking(lambda r: r.drop("emptyvaluematching"), SEARCH)),
    Fault("multiplevaluematching without a word", "C53", asking(lambda r: r.drop("multiplevaluematching"), SEARCH)),
    Fault("fuzzymatching=maybe is taken", "C55", asking(lambda r: r.drop("fuzzymatching"), SEARCH)),
    Fault("a result is missing in XML", "C57", parts(lambda found: found[1:], SEARCH)),
    Fault("what was deleted is there", "C60,D03", pretending("DELETE", "/instances/", Reply(204, {}, b""))),
    Fault("a large limit gives less without a word", "C61", replying(_fewer, SEARCH)),
    Fault("fields of viewers are ignored", "C62", asking(lambda r: r.drop("includefield"), SEARCH)),
    Fault("an instance of a study forgets its series", "C19s", attributes(pop("00080060"), "/instances$")),
)  # fmt: skip

RETRIEVES = (
    Fault("a part of a study is called all", "D04", parts(lambda found: found[1:], r"/studies/[\d.]+$")),
    Fault("another SOP class", "D09u", edited(lambda ds: setattr(ds, "SOPClassUID", "1.2.3"))),
    Fault("an instance without metadata in XML", "D15", parts(lambda found: found[1:], "/metadata$")),
    Fault("large private values are lost", "D16p", attributes(pop("00091012"), "/metadata")),
    Fault("frames of other pixels", "D29s", contents(spoilt, FRAMES)),
    Fault("a GIF that is none", "D34", contents(lambda data: b"XX" + data[2:], "/rendered")),
    Fault("a series cannot be rendered", "D37", status(200, 500, "/rendered")),
    Fault("a report with other words", "D38",
          contents(lambda data: data.replace(b"Nothing but", b"Something of"), "/rendered")),
    Fault("a document cut short", "D39", contents(lambda data: data[:-10], "/rendered")),
    Fault("regions are ignored", "D42",
          asking(lambda r: r.rewrite("viewport", lambda v: ",".join(v.split(",")[:2])), "/rendered")),
    Fault("bad parameters are taken", "D43w", status(400, 200, "/rendered")),
    Fault("always annotated", "D44", asking(_annotated, "/rendered")),
    Fault("an unknown annotation is a server error", "D45", refusing(500, lambda r: given(r, "annotation") != "")),
    Fault("a profile that nobody wants", "D46", asking(lambda r: r.rewrite("iccprofile", lambda _: "srgb"))),
    Fault("windows are moved", "D47w", asking(lambda r: r.rewrite(
        "window", lambda v: re.sub(r"^-?\d+", lambda m: str(int(m[0]) + 20), v)), "/rendered")),
    Fault("states are turned round", "D48", contents(_picture, "/rendered")),
    Fault("broken pixels are a server error", "D54", status(406, 500, "/frames/1")),
    Fault("broken pixels are guessed", "D54", status(406, 200, "/frames/1/rendered$")),
    Fault("a mixed study is a server error", "D51", status(206, 500, "/studies/[0-9.]+$")),
    Fault("a file that is said to be a picture", "E04", header("content-type", "image/jpeg", "/wado$")),
    Fault("Big Endian by URI", "E05", contents(_other_syntax, "/wado$")),
    Fault("anonymize is ignored", "E06", asking(lambda r: r.drop("anonymize"), "/wado$"), absent=True),
)  # fmt: skip

STORES = (
    Fault("kept, and said not to be", "F09", posting((202,), 400)),
    Fault("XML that says to be text", "F12x", header("content-type", "text/plain", "/studies$")),
    Fault("text is taken for a boundary", "F16",
          contents(lambda data: data.replace(b"--conformance-boundar", b""), INSTANCE)),
    Fault("what was made has no address", "F11l", header("location", None, "/studies$")),
    Fault("parts need a type", "F18", refusing(400, lambda r: r.body.startswith(b"--b\r\n\r\n"))),
    Fault("parts may say where they are", "F19", refusing(400, lambda r: b"Content-Location" in r.body)),
    Fault("what is missing is not missed", "F23", posting((202, 400, 409), 200)),
    Fault("a document is another", "F26",
          contents(lambda data: data.replace(b"%PDF-1.4", b"%PDF-1.9"), INSTANCE)),
    Fault("a single part is a server error", "F27",
          refusing(500, lambda r: r.headers.get("Content-Type") == "application/dicom")),
    Fault("again is a conflict", "F28", posting((200,), 409)),
    Fault("another content is said to be kept", "F29", Break(reply=_silent_refusal)),
    Fault("any UID is taken", "F31,G36", posting((400, 409), 200)),
    Fault("one of many is refused", "F34", attributes(_one_fails, "/studies$")),
    Fault("what one door took the other lacks", "K29", refusing(404, lambda r: r.path.endswith("/metadata"))),
    Fault("one of many is not named", "F40,F41", attributes(_one_unnamed, "/studies")),
    Fault("numbers have to be numbers", "G35", refusing(400, lambda r: b'["17"]' in r.body)),
    Fault("coerced without a trace", "F13,D08", edited(lambda ds: setattr(ds, "PatientName", "ZZ^Other")), absent=True),
)  # fmt: skip

VALUES = (
    Fault("one object for one result", "G01", replying(_first_object, SEARCH)),
    Fault("an empty item is no item", "G10", attributes(put("00081110", {"vr": "SQ"}))),
    Fault("components are joined", "G14", attributes(changed("00100010", lambda _: {"Alphabetic": "ZZDoe John"}))),
    Fault("a text is split", "G25", attributes(put("001021B0", {"vr": "LT", "Value": ["one", "value"]}))),
    Fault("a value is another", "G34", attributes(changed("00100020", lambda value: value + "x"), "/metadata")),
    Fault("DS that are none are lost", "G17", attributes(pop("00180050"), "/metadata")),
    Fault("NaN is lost", "G21", attributes(pop("00189073"), "/metadata")),
    Fault("what is deep is lost", "G33", attributes(put("0040A730", {"vr": "SQ", "Value": [{}]}), "/metadata")),
)

WORKITEMS = (
    Fault("the given UID is not taken", "H02",
          asking(lambda r: setattr(r, "query", []) if r.method == "POST" else None, UPS + "$")),
    Fault("one spelling is not known", "H10s", refusing(400, lambda r: bool(given(r, "Transaction-uid")))),
    Fault("items are added", "H14", attributes(_added, UPS)),
    Fault("the state has one address", "H25", refusing(404, lambda r: r.path.endswith("/ZZREQUESTER"))),
    Fault("a scheduled one cannot be asked for", "H26", status(202, 404, "/cancelrequest$")),
    Fault("a request cancels", "H27", attributes(changed("00741000", lambda _: "CANCELED"), UPS)),
    Fault("no word of what is done already", "H29", header("warning", None, "/cancelrequest$")),
    Fault("what is done is gone", "H35", Break(reply=_gone_when_done)),
    Fault("the filter is ignored", "H36", asking(lambda r: r.rewrite("filter", lambda _: "00741204=*"), "/subscr")),
    Fault("nobody can unsubscribe", "H38", pretending("DELETE", "/subscribers/", Reply(200, {}, b""))),
    Fault("nothing is suspended", "H39", pretending("POST", "/suspend$", Reply(200, {}, b""))),
    Fault("another WebSocket accepts", "H40", Break(
        socket=lambda data: re.sub(rb"(?i)(sec-websocket-accept: )....", rb"\1AAAA", data))),
    Fault("a state of its own for HTTP", "H44", attributes(changed("00741000", lambda _: "SCHEDULED"), UPS)),
    Fault("scheduled steps are a server error", "I08",
          pretending("GET", "/modality-scheduled", Reply(500, {}, b"")), absent=True),
    Fault("every performed step is there", "I11", Break(
        request=lambda r: Reply(200, {"Allow": "POST"}, b"") if "/modality-perf" in r.path else None), absent=True),
)  # fmt: skip

REST = (*NEGOTIATION, *COMMON, *SEARCHES, *RETRIEVES, *STORES, *VALUES, *WORKITEMS)
