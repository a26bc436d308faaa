"""What the service can do, told to machines (PS3.18 8.9 and Annex H): WADL, and the same tree in JSON.

Both are made from `dicomweb.routes.TABLE`, so what is described is what is answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import orjson

from dicomweb import parameters
from dicomweb.media_types import JSON, Offer
from pacs.dicom.attributes import LEVELS, TABLE, Level

if TYPE_CHECKING:
    from dicomweb.routes import Row, Socket, Unsupported

WADL = "application/vnd.sun.wadl+xml"
OFFERS = (Offer(WADL, aliases=("application/xml", "text/xml")), Offer(JSON))

_NAMESPACE = "http://wadl.dev.java.net/2009/02"
_SCHEMA = "http://www.w3.org/2001/XMLSchema"

Element = dict[str, Any]
"""A WADL element: attributes as members, children as lists under their element name."""


@dataclass
class _Node:
    rows: list[Row | Socket] = field(default_factory=list)
    below: dict[str, _Node] = field(default_factory=dict)


def description(
    rows: Iterable[Row], sockets: Iterable[Socket], unsupported: Sequence[Unsupported], base: str, within: str = "/"
) -> Element:
    """The application element that describes every resource at and below the path template `within`.

    `base` is the URL of the service. Raises KeyError for a template that is none of the table's.
    """
    root = _Node()
    described: list[Row | Socket] = [*rows, *sockets]
    for row in described:
        node = root
        for segment in _segments(row.path):
            node = node.below.setdefault(segment, _Node())
        node.rows.append(row)
    segments = _segments(within)
    for segment in segments:
        root = root.below[segment]
    ids: dict[str, int] = {}
    if segments:
        top = [_resource("/".join(segments), root, ids)]
    else:
        top = [_resource(segment, node, ids) for segment, node in root.below.items()]
        if root.rows:
            top.insert(0, _resource("/", _Node(root.rows), ids))
    said = [f"{each.service} Service (PS3.18 {each.section}) is not supported: {each.why}." for each in unsupported]
    return {"doc": [{"title": "DICOMweb capabilities", "text": " ".join(said)}],
            "resources": [{"base": base + "/", "resource": top}]}  # fmt: skip


def wadl(application: Element) -> bytes:
    """The description as a WADL document."""
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<application xmlns="{_NAMESPACE}" xmlns:xsd="{_SCHEMA}"'
    return (head + "".join(_xml(application)) + "</application>\n").encode()


def json(application: Element) -> bytes:
    """The description as JSON: elements as arrays under their names, attributes and text as members."""
    return orjson.dumps({"application": application})


def allowed(methods: Iterable[str]) -> str:
    """The Allow header for these methods: HEAD comes with GET, OPTIONS always."""
    given = set(methods)
    return ", ".join(sorted({*given, "OPTIONS", *(("HEAD",) if "GET" in given else ())}))


def _segments(path: str) -> list[str]:
    return [segment.replace(":path}", "}") for segment in path.strip("/").split("/") if segment]


def _resource(path: str, node: _Node, ids: dict[str, int]) -> Element:
    names = [segment[1:-1] for segment in path.split("/") if segment.startswith("{")]
    made: Element = {"path": path}
    if names:
        made["param"] = [
            {"name": name, "style": "template", "type": "xsd:string", "required": "true"} for name in names
        ]
    if node.rows:
        made["method"] = [_method(row, ids) for row in node.rows]
    if node.below:
        made["resource"] = [_resource(segment, below, ids) for segment, below in node.below.items()]
    return made


def _method(row: Row | Socket, ids: dict[str, int]) -> Element:
    name = "".join(part for part in row.transaction.title() if part.isalnum())
    ids[name] = ids.get(name, 0) + 1
    section = f"PS3.18 {row.section}" if row.section[0].isdigit() else row.section
    found, status = list(_query(row)), "200"
    if row.upgrade:
        found.insert(0, {"name": "Upgrade", "style": "header", "required": "true", "fixed": "websocket"})
        status = "101"
    request: Element = {"param": found} if found else {}
    if row.payloads:
        request["representation"] = [{"mediaType": each} for each in row.payloads]
    made: Element = {
        "name": row.method,
        "id": name if ids[name] == 1 else f"{name}{ids[name]}",
        "doc": [{"title": f"{row.transaction} ({row.service}, {section})"}],
    }
    if request:
        made["request"] = [request]
    if row.media_types or status != "200":
        made["response"] = [{"status": status, "representation": [{"mediaType": each} for each in row.media_types]}]
    return made


def _query(row: Row | Socket) -> Iterator[Element]:
    for name in row.parameters:
        if name == "{attribute}" and row.service == "QIDO-RS":
            yield from (_param(each, "string", "a matching key", (), False) for each in _keys(row))
        known = parameters.TABLE[name]
        yield _param(name, known.type, f"PS3.18 {known.section}: {known.doc}", known.values, known.repeats)


def _param(name: str, kind: str, doc: str, values: Sequence[str], repeats: bool) -> Element:
    made: Element = {"name": name, "style": "query", "type": f"xsd:{kind}"}
    if repeats:
        made["repeating"] = "true"
    made["doc"] = [{"title": doc}]
    if values:
        made["option"] = [{"value": value} for value in values]
    return made


def _keys(row: Row | Socket) -> list[str]:
    """Keywords of the matching keys that the index answers at the level of this search."""
    last = row.path.rpartition("/")[2]
    level = {"studies": Level.STUDY, "series": Level.SERIES}.get(last, Level.IMAGE)
    reach = LEVELS[: LEVELS.index(level) + 1]
    return [each.keyword for each in TABLE if each.matchable and each.level in reach]


def _xml(element: Element) -> Iterator[str]:
    """The rest of a start tag and everything inside, up to the end tag."""
    yield from (
        f" {name}={quoteattr(value)}" for name, value in element.items() if isinstance(value, str) and name != "text"
    )
    yield ">"
    if text := element.get("text"):
        yield text.replace("&", "&amp;").replace("<", "&lt;")
    for name, children in element.items():
        if isinstance(children, list):
            for child in children:
                yield f"<{name}"
                yield from _xml(child)
                yield f"</{name}>"
