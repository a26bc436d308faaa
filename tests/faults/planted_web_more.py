"""More faults of a DICOMweb server, a row each: negotiation, search, values, frames, Workitems."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

from faults.breaking_proxy import Break, Reply, Request
from faults.planted import Fault
from faults.planted_web import (
    FRAMES,
    SEARCH,
    UPS,
    Attributes,
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

from conformance.data import read

Test = Callable[[Request], object]


def refusing(code: int, test: Test) -> Break:
    """Requests of this kind are answered with this status."""

    def reply(request: Request, reply: Reply) -> None:
        if test(request):
            reply.status = code

    return Break(reply=reply)


def accepts(request: Request) -> str:
    """The Accept header."""
    return next((value for name, value in request.headers.items() if name.lower() == "accept"), "")


def values(change: Callable[[str, Any], Any], path: str = "") -> Break:
    """Every value is changed by (vr, value), in items too."""

    def work(each: Attributes) -> None:
        for entry in each.values():
            if entry.get("vr") == "SQ":
                for item in entry.get("Value", []):
                    work(item)
            elif "Value" in entry:
                entry["Value"] = [change(entry["vr"], value) for value in entry["Value"]]

    return attributes(work, path)


def _stored_syntax(value: str) -> str:
    return value if "transfer-syntax" in value else value + "; transfer-syntax=*"


def _first_object(reply: Reply) -> None:
    if reply.is_json and reply.status == 200:
        reply.body = json.dumps(json.loads(reply.body)[0]).encode()


def _fewer(reply: Reply) -> None:
    if reply.is_json and reply.status == 200:
        reply.body = json.dumps(json.loads(reply.body)[1:]).encode()


def _known_alone(each: Attributes) -> Attributes:
    return {tag: entry for tag, entry in each.items() if set(entry) != {"vr"}}


def _no_private(each: Attributes) -> Attributes:
    return {tag: entry for tag, entry in each.items() if not int(tag[:4], 16) & 1}


def _without_private(content: bytes) -> bytes:
    ds = read(content)
    ds.remove_private_tags()
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _upper_parameter(request: Request) -> None:
    request.query = [("limit" if name == "LIMIT" else name, value) for name, value in request.query]


def _no_paths(request: Request) -> None:
    request.query = [(name, value) for name, value in request.query if "." not in name]


def _no_tags(request: Request) -> None:
    request.query = [(name, value) for name, value in request.query if not re.fullmatch("[0-9A-Fa-f]{8}", name)]


def _empty_for_null(each: Attributes) -> None:
    for entry in each.values():
        if "Value" in entry:
            entry["Value"] = ["" if value is None else value for value in entry["Value"]]


def _no_nulls(each: Attributes) -> None:
    for entry in each.values():
        if None in entry.get("Value", []):
            entry["Value"] = [value for value in entry["Value"] if value is not None]


def _cut_inline(each: Attributes) -> None:
    for entry in each.values():
        if len(entry.get("InlineBinary", "")) > 4:
            entry["InlineBinary"] = entry["InlineBinary"][:-4]


def _signed(each: Attributes) -> None:
    for entry in each.values():
        entry["vr"] = {"SS": "US", "US": "SS"}.get(entry["vr"], entry["vr"])


def _no_bulk(each: Attributes) -> None:
    for entry in each.values():
        if "BulkDataURI" in entry:
            entry["BulkDataURI"] += "/nowhere"


def _item_tag(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content


def _one_more(vr: str, value: Any) -> Any:
    return int(value) + 1 if vr == "IS" and str(value).strip("-").isdigit() else value


def _ascii_names(vr: str, value: Any) -> Any:
    if vr != "PN" or not value:
        return value
    return {group: text.encode("ascii", "replace").decode() for group, text in value.items()}


def _big_endian(content: bytes) -> bytes:
    return content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0", 1)


def _no_starred_uid(request: Request) -> None:
    if "*" in dict(request.query).get("StudyInstanceUID", ""):
        request.drop("StudyInstanceUID")


def _star_of_some(request: Request) -> None:
    request.rewrite("PatientName", lambda value: "?*" if value == "*" else value)


def _silence(data: bytes) -> bytes:
    return data if data.startswith(b"HTTP/") else b""


NEGOTIATION = (
    Fault("a list of types is refused", "A02,A20", refusing(406, lambda r: "," in accepts(r))),
    Fault("white space is refused", "A17", refusing(406, lambda r: " ;" in accepts(r))),
    Fault("types have to be quoted", "A16,A19", refusing(406, lambda r: re.search('type=[^"]', accepts(r)))),
    Fault("*/* is refused", "A06,A07,A08", refusing(406, lambda r: accepts(r) == "*/*")),
    Fault("only the parameter counts", "A13", refusing(406, lambda r: any(name == "accept" for name, _ in r.query))),
    Fault("Big Endian is promised", "A22", accept(lambda v: v.replace("transfer-syntax=1.2.840.10008.1.2.2", "q=1.0"))),
    Fault("always the stored syntax", "A24", accept(_stored_syntax)),
    Fault("what cannot be is 200", "A26", status(406, 200)),
    Fault("never the stored syntax", "A28s", accept(lambda v: v.replace("; transfer-syntax=*", ""))),
    Fault("a charset is refused", "A35", refusing(406, lambda r: any(name == "charset" for name, _ in r.query))),
    Fault("nothing is packed", "A38", header("content-encoding", None)),
    Fault("what is no UID is a server error", "B03", status(400, 500)),
    Fault("LIMIT is limit", "B05", asking(_upper_parameter)),
    Fault("chunks are refused", "B19", refusing(411, lambda r: "chunked" in str(r.headers).lower())),
    Fault("bulk data lie nowhere", "D16", attributes(_no_bulk, "/metadata")),
    Fault("a series lies nowhere", "B21", attributes(changed("00081190", lambda url: url + "0"), "/series$")),
    Fault("HEAD is a server error", "B23", refusing(500, lambda r: r.method == "HEAD")),
)

SEARCHES = (
    Fault("an object for an array", "C01", replying(_first_object, SEARCH)),
    Fault("unknown values are left out", "C11", attributes(_known_alone, SEARCH)),
    Fault("a series without its study", "C18", attributes(pop("00100010", "00100020"), "/series$")),
    Fault("an instance without its series", "C19", attributes(pop("00080060"), "/instances$")),
    Fault("a series in a study", "C20", attributes(put("00200011", {"vr": "IS", "Value": [1]}), "/studies$")),
    Fault("all is the default", "C25", asking(lambda r: r.drop("includefield"))),
    Fault("series numbers are not matched", "C30", asking(lambda r: r.drop("SeriesNumber", "00200011"))),
    Fault("instance numbers are not matched", "C31", asking(lambda r: r.drop("InstanceNumber", "00200013"))),
    Fault("tags are no keys", "C32", asking(_no_tags)),
    Fault("* leaves out what is empty", "C37", asking(_star_of_some)),
    Fault("codes take no wild cards", "C40",
          asking(lambda r: r.rewrite("ModalitiesInStudy", lambda v: v.replace("*", "~")))),
    Fault("UIDs take wild cards", "C41",
          asking(_no_starred_uid)),
    Fault("times are not matched", "C44", asking(lambda r: r.drop("StudyTime", "00080030"))),
    Fault("paths are not matched", "C48", asking(_no_paths)),
    Fault("names beyond ASCII match nothing", "C56",
          asking(lambda r: r.rewrite("PatientName", lambda v: v if v.isascii() else "ZZNO"))),
    Fault("a wrong date is taken", "C46", status(400, 200, SEARCH, body=b"[]")),
)  # fmt: skip

VALUES = (
    Fault("an empty text for null", "G08", attributes(_empty_for_null)),
    Fault("null is left out", "G08,G13", attributes(_no_nulls)),
    Fault("an empty Alphabetic", "G12", values(lambda vr, v: {"Alphabetic": "", **v} if vr == "PN" and v else v)),
    Fault("IS is another number", "G15", values(_one_more)),
    Fault("DS is rounded", "G16", values(lambda vr, v: f"{float(v):.2f}" if vr == "DS" and v else v)),
    Fault("large integers as floats", "G18", values(lambda vr, v: float(v) if vr in ("SV", "UV") else v)),
    Fault("AT as a number", "G22", values(lambda vr, v: int(v, 16) if vr == "AT" else v)),
    Fault("inline bytes are cut", "G23", attributes(_cut_inline)),
    Fault("characters are lost", "G27",
          values(_ascii_names)),
    Fault("padding stays", "G28", values(lambda vr, v: v + " " if vr in ("LO", "CS", "SH") and v else v)),
    Fault("private elements are left out", "G29,D09", attributes(_no_private)),
    Fault("US and SS are mixed up", "G31", attributes(_signed)),
)  # fmt: skip

OBJECTS = (
    Fault("File Meta tells another syntax", "D06",
          contents(_big_endian, r"/instances/[\d.]+$")),
    Fault("private elements are not given back", "D09", contents(_without_private, r"/instances/[\d.]+$")),
    Fault("an instance without metadata", "D12", replying(_fewer, "/metadata")),
    Fault("an attribute without metadata", "D12v", attributes(pop("00100040"), "/metadata")),
    Fault("bulk data of fewer elements", "D17", parts(lambda found: found[1:], "/bulkdata$")),
    Fault("pixel data of fewer instances", "D18", parts(lambda found: found[1:], "/pixeldata$")),
    Fault("another range", "D19", replying(lambda r: setattr(r, "body", r.body[::-1]) if r.status == 206 else None)),
    Fault("a range past the end is 200", "D20", status(416, 200)),
    Fault("a frame twice", "D21", parts(lambda found: found * 2, FRAMES)),
    Fault("frames of what has none", "D25", status(404, 200, "/frames")),
    Fault("bits from another frame", "D27", contents(lambda data: bytes(byte ^ 1 for byte in data), FRAMES)),
    Fault("item tags in frames", "D28,D29", contents(_item_tag, FRAMES)),
    Fault("floats in the other order", "D31", contents(lambda data: data[::-1], FRAMES)),
    Fault("an empty thumbnail", "D49", replying(lambda r: setattr(r, "body", b""), "/thumbnail")),
    Fault("always frame 1", "D53,D22",
          asking(lambda r: setattr(r, "path", re.sub(r"/frames/[\d,]+$", "/frames/1", r.path)), FRAMES)),
    Fault("WADO-URI takes anything", "E01,E02,E07,E08", status(400, 200, "/wado$")),
    Fault("WADO-URI knows everything", "E09", status(404, 200, "/wado$")),
    Fault("WADO-URI makes anything", "E10", status(406, 200, "/wado$")),
    Fault("WADO-URI says another type", "E03", header("content-type", "text/plain", "/wado$")),
    Fault("a preamble is refused", "F14",
          refusing(400, lambda r: r.method == "POST" and r.body and not r.body.startswith(b"--"))),
    Fault("punctuation is no boundary", "F15", refusing(400, lambda r: "'" in r.headers.get("Content-Type", ""))),
    Fault("no parts is success", "F21", status(400, 200, "/studies", "POST", body=b"{}")),
    Fault("without UIDs is success", "F32", Break(
        reply=lambda q, r: setattr(r, "status", 200) if q.method == "POST" and r.status in (400, 409) else None)),
    Fault("an answer of any type", "F12", header("content-type", "text/plain", "/studies$")),
    Fault("no Retrieve URL of the study", "F11", attributes(pop("00081190"), "/studies")),
    Fault("markup in a report", "O06",
          replying(lambda r: setattr(r, "body", r.body.replace(b"&lt;script&gt;", b"<script>")), "/rendered")),
)  # fmt: skip

WORKITEMS = (
    Fault("updates are refused", "H09,H10", status(200, 400, UPS + "/", "POST")),
    Fault("an update may set the state", "H13", status(400, 200, UPS, "POST")),
    Fault("no Warning of what is done", "H21", header("warning", None, UPS)),
    Fault("states are refused", "H15,H22", status(200, 409, "/state", "PUT")),
    Fault("anybody may end it", "H23,H46", Break(
        reply=lambda q, r: setattr(r, "status", 200) if "/state" in q.path and r.status in (400, 409) else None)),
    Fault("no Workitem is an empty array", "H32", status(204, 200, UPS + "$", body=b"[]")),
    Fault("an unknown Workitem is watched", "H37", status(404, 201, "/subscribers")),
    Fault("no events", "H42,H45", Break(socket=_silence)),
    Fault("nothing is committed", "I01", attributes(pop("00081199"), "/commitment-requests")),
)  # fmt: skip

MORE = (*NEGOTIATION, *SEARCHES, *VALUES, *OBJECTS, *WORKITEMS)
