"""What a document of the Web Application Description Language may hold (W3C submission of 2009), as a table of our own.

For each element of the language: its attributes, its children in their order, and which of them it has to have.
Elements and attributes of other namespaces are allowed everywhere and not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

NAMESPACE = "{http://wadl.dev.java.net/2009/02}"


@dataclass(frozen=True)
class Kind:
    """What one element may have; `children` are groups that come in this order, within a group in any."""

    attributes: tuple[str, ...] = ()
    children: tuple[tuple[str, ...], ...] = ()
    needs: tuple[str, ...] = ()
    """Attributes that it has to have, unless it refers to another by `href`."""
    one_at_most: tuple[str, ...] = ()
    text: bool = False


DOC = ("doc",)
KINDS = {
    "application": Kind(
        (), (DOC, ("grammars",), ("resources",), ("resource_type", "method", "representation", "param")),
        (), ("grammars",),
    ),
    "grammars": Kind((), (DOC, ("include",))),
    "include": Kind(("href",), (DOC,), ("href",)),
    "resources": Kind(("base",), (DOC, ("resource",))),
    "resource": Kind(("id", "type", "queryType", "path"), (DOC, ("param",), ("method", "resource"))),
    "resource_type": Kind(("id",), (DOC, ("param",), ("method", "resource"))),
    "method": Kind(("id", "name", "href"), (DOC, ("request",), ("response",)), ("name",), ("request",)),
    "request": Kind((), (DOC, ("param",), ("representation",))),
    "response": Kind(("status",), (DOC, ("param",), ("representation",))),
    "representation": Kind(("id", "element", "mediaType", "href", "profile"), (DOC, ("param",))),
    "param": Kind(
        ("href", "name", "style", "id", "type", "default", "required", "repeating", "fixed", "path"),
        (DOC, ("option",), ("link",)), ("name",), ("link",),
    ),
    "option": Kind(("value", "mediaType"), (DOC,), ("value",)),
    "link": Kind(("resource_type", "rel", "rev"), (DOC,)),
    "doc": Kind(("title",), text=True),
}  # fmt: skip
VALUES = {
    "style": re.compile("plain|query|matrix|header|template"),
    "required": re.compile("true|false|1|0"),
    "repeating": re.compile("true|false|1|0"),
    "status": re.compile(r"\d{3}( +\d{3})*"),
    "queryType": re.compile(r"[^/\s]+/[^/\s]+"),
}


def faults(root: Element) -> Iterator[str]:
    """What breaks the language, in words; each element is named by its path."""
    if root.tag != f"{NAMESPACE}application":
        yield f"the root is {root.tag}, not application"
        return
    seen: set[str] = set()
    yield from _element(root, "application", seen)


def _element(node: Element, where: str, seen: set[str]) -> Iterator[str]:
    name = node.tag.removeprefix(NAMESPACE)
    kind = KINDS[name]
    for attribute, value in node.attrib.items():
        if attribute.startswith("{"):
            continue
        if attribute not in kind.attributes:
            yield f"{where}: no attribute {attribute}"
        elif attribute in VALUES and not VALUES[attribute].fullmatch(value):
            yield f"{where}: {attribute} is {value!r}"
        if attribute == "id" and value in seen:
            yield f"{where}: the id {value} is given twice"
        if attribute == "id":
            seen.add(value)
    for attribute in kind.needs:
        if attribute not in node.attrib and not node.get("href"):
            yield f"{where}: {attribute} is missing"
    if not kind.text and "".join([node.text or "", *(child.tail or "" for child in node)]).strip():
        yield f"{where}: text between elements"
    yield from _children(node, kind, where, seen)


def _children(node: Element, kind: Kind, where: str, seen: set[str]) -> Iterator[str]:
    at, counts = 0, dict[str, int]()
    for child in node:
        if not child.tag.startswith(NAMESPACE) or kind.text:
            continue
        name = child.tag.removeprefix(NAMESPACE)
        here = f"{where}/{child.get('path') or child.get('name') or name}"
        group = next((number for number, names in enumerate(kind.children) if name in names), None)
        if group is None:
            yield f"{where}: no element {name} here"
            continue
        if group < at:
            yield f"{here}: {name} comes too late"
        at = max(at, group)
        counts[name] = counts.get(name, 0) + 1
        yield from _element(child, here, seen)
    for name in kind.one_at_most:
        if counts.get(name, 0) > 1:
            yield f"{where}: {name} more than once"
