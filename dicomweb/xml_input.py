"""The Native DICOM Model from strangers (PS3.19 A.1): one XML document read into the DICOM JSON model and checked.

No document type, entity or processing instruction is taken, so that nothing is fetched and nothing grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.parsers import expat

from pacs.dicom import dictionary, json_input
from pacs.dicom.private_blocks import Blocks
from pacs.errors import InvalidInput

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
MAX_DEPTH = 3 * json_input.MAX_DEPTH
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_ROOM = {
    "": ("NativeDicomModel",),
    "NativeDicomModel": ("DicomAttribute",),
    "DicomAttribute": ("Value", "PersonName", "Item", "BulkData", "InlineBinary"),
    "Item": ("DicomAttribute",),
    "PersonName": _GROUPS,
    **dict.fromkeys(_GROUPS, _NAME_PARTS),
}
"""Which elements may stand in which."""


def loads(raw: bytes | bytearray) -> dict[str, Any]:
    """The data set of one NativeDicomModel document, as `pacs.dicom.json_input.loads` gives it.

    The namespace may be missing; attributes are found by tag, or by keyword where they have no tag. A block of private
    elements named by its creator gets a number of its own and its creator element. Raises InvalidInput naming the tag.
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refused
    parser.ProcessingInstructionHandler = _refused
    try:
        parser.Parse(bytes(raw), True)
    except expat.ExpatError as error:
        raise InvalidInput(f"not XML: {expat.ErrorString(error.code)} at line {error.lineno}") from None
    except (LookupError, ValueError):  # what the parser says of an encoding that Python has not, or has as no map
        raise InvalidInput("not XML in an encoding that is known here") from None
    return json_input.checked(reader.dataset)


def _refused(*_: object) -> None:
    raise InvalidInput("a document type or processing instruction, which the Native DICOM Model has not")


class _Reader:
    """The handlers of one parse. Each open element has a frame: its name, its attributes and what it holds so far."""

    def __init__(self) -> None:
        self.dataset: dict[str, Any] = {}
        self._open: list[tuple[str, Mapping[str, str], list[Any]]] = []
        self._text: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        room = self._open[-1][0] if self._open else ""
        if namespace not in ("", NAMESPACE) or local not in _ROOM.get(room, ()):
            raise InvalidInput(f"no {local[:64]} can stand there (PS3.19 A.1.6)", about=self._tag)
        if len(self._open) >= MAX_DEPTH:
            raise InvalidInput(f"sequences nested deeper than {json_input.MAX_DEPTH}")
        self._open.append((local, attributes, []))
        self._text.clear()

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, _: str) -> None:
        name, attributes, inside = self._open.pop()
        text = "".join(self._text)
        self._text.clear()
        match name:
            case "NativeDicomModel":
                self.dataset = _dataset(inside)
                return
            case "DicomAttribute":
                made: Any = _attribute(attributes, inside)
            case "Item":
                made = (name, _number(attributes), _dataset(inside))
            case "PersonName":
                made = (name, _number(attributes), dict(inside))
            case "Alphabetic" | "Ideographic" | "Phonetic":
                parts = dict(inside)
                made = (name, "^".join(parts.get(part, "") for part in _NAME_PARTS).rstrip("^"))
            case "BulkData":
                made = (name, 1, attributes.get("uri") or attributes.get("uuid") or "")
            case "Value":
                made = (name, _number(attributes), text)
            case _:  # InlineBinary, and the parts of a name
                made = (name, 1, text) if name == "InlineBinary" else (name, text)
        self._open[-1][2].append(made)

    @property
    def _tag(self) -> str:
        """The attribute that is open, for messages."""
        return next((a.get("tag", a.get("keyword", ""))[:64] for n, a, _ in reversed(self._open) if n[0] == "D"), "")


def _number(attributes: Mapping[str, str]) -> int:
    number = attributes.get("number", "1")
    if not (number.isascii() and number.isdecimal() and 1 <= len(number) <= 6 and int(number) >= 1):
        raise InvalidInput("a value or item is not numbered from 1")
    return int(number)


def _dataset(attributes: list[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """Tag, private creator and entry of each attribute, put together."""
    out: dict[str, Any] = {}
    for tag, _, entry in (each for each in attributes if not each[1]):
        if tag in out:
            raise InvalidInput("attribute given twice", about=tag)
        out[tag] = entry
    blocks = Blocks(out)
    for tag, creator, entry in (each for each in attributes if each[1]):
        placed = blocks.place(tag, creator)
        if placed in out:
            raise InvalidInput("attribute given twice", about=tag)
        out[placed] = entry
    return out


def _attribute(attributes: Mapping[str, str], inside: list[tuple[str, int, Any]]) -> tuple[str, str, dict[str, Any]]:
    tag = attributes.get("tag", "").upper()
    if not tag:
        found = dictionary.tag(attributes.get("keyword", ""))
        if found is None:
            raise InvalidInput("an attribute without tag and known keyword", about=attributes.get("keyword", "")[:64])
        tag = f"{found:08X}"
    entry: dict[str, Any] = {"vr": attributes["vr"]} if "vr" in attributes else {}
    kinds = {kind for kind, *_ in inside}
    if len(kinds) > 1 or (kinds & {"BulkData", "InlineBinary"} and len(inside) > 1):
        raise InvalidInput("values of several kinds in one attribute", about=tag)
    if not inside:
        return tag, attributes.get("privateCreator", ""), entry
    kind = inside[0][0]
    if kind == "BulkData":
        entry["BulkDataURI"] = inside[0][2]
    elif kind == "InlineBinary":
        entry["InlineBinary"] = inside[0][2]
    else:
        values: dict[int, Any] = {}
        for _, number, value in inside:
            if number in values or number > len(inside) + json_input.MAX_DEPTH:
                raise InvalidInput("values that are not numbered one after the other", about=tag)
            values[number] = value if value not in ("", {}) or kind == "Item" else None
        entry["Value"] = [values.get(number) for number in range(1, max(values) + 1)]
    return tag, attributes.get("privateCreator", ""), entry
