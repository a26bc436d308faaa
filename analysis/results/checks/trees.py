"""Owns the check of SR content trees (PS3.3 C.17.3, C.18): value types, relationships, references, places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from pydicom import Dataset

CAD, KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.50", "1.2.840.10008.5.1.4.1.1.88.59"
COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
SR_CLASSES = frozenset({CAD, KEY_OBJECT, COMPREHENSIVE_3D})

Path = tuple[int, ...]

_VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "TEXT": ("TextValue",),
        "CODE": ("ConceptCodeSequence",),
        "NUM": ("MeasuredValueSequence",),
        "DATE": ("Date",),
        "TIME": ("Time",),
        "DATETIME": ("DateTime",),
        "UIDREF": ("UID",),
        "PNAME": ("PersonName",),
        "SCOORD": ("GraphicType", "GraphicData"),
        "SCOORD3D": ("GraphicType", "GraphicData", "ReferencedFrameOfReferenceUID"),
        "IMAGE": ("ReferencedSOPSequence",),
        "COMPOSITE": ("ReferencedSOPSequence",),
        "WAVEFORM": ("ReferencedSOPSequence",),
        "CONTAINER": ("ContinuityOfContent",),
    }
)
"""What an item of each value type holds (PS3.3 C.17.3.2.1)."""

_SIMPLE = frozenset({"TEXT", "CODE", "NUM", "DATE", "TIME", "DATETIME", "UIDREF", "PNAME"})
_PLACES = frozenset({"IMAGE", "COMPOSITE", "WAVEFORM", "SCOORD", "SCOORD3D"})
_RELATIONS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = MappingProxyType(
    {
        "CONTAINS": (frozenset({"CONTAINER"}), _SIMPLE | _PLACES | {"CONTAINER"}),
        "HAS OBS CONTEXT": (frozenset({"CONTAINER", "TEXT", "CODE", "NUM"}), _SIMPLE),
        "HAS ACQ CONTEXT": (frozenset({"CONTAINER", "IMAGE", "COMPOSITE", "WAVEFORM", "NUM"}), _SIMPLE | {"CONTAINER"}),
        "HAS CONCEPT MOD": (frozenset(_VALUES), frozenset({"TEXT", "CODE"})),
        "HAS PROPERTIES": (frozenset({"TEXT", "CODE", "NUM", "PNAME"}), _SIMPLE | _PLACES | {"CONTAINER"}),
        "INFERRED FROM": (frozenset({"TEXT", "CODE", "NUM"}), _SIMPLE | _PLACES | {"CONTAINER"}),
        "SELECTED FROM": (frozenset({"SCOORD"}), frozenset({"IMAGE"})),
    }
)
"""Source and target value types of each relationship (PS3.3 A.35.13.3.1.2, narrowed to what is written here)."""

_NARROWER: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        CAD: frozenset({"TEXT", "CODE", "NUM", "DATE", "TIME", "UIDREF", "PNAME", "SCOORD", "IMAGE", "CONTAINER"}),
        KEY_OBJECT: frozenset({"TEXT", "CODE", "UIDREF", "PNAME", "IMAGE", "COMPOSITE", "WAVEFORM", "CONTAINER"}),
    }
)
"""Value types of the SOP classes that know fewer (PS3.3 A.35.5.3.1.1, A.35.4.3.1.1)."""

_MANY = 10**6
_POINTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"POINT": (1, 1), "MULTIPOINT": (1, _MANY), "POLYLINE": (2, _MANY), "CIRCLE": (2, 2), "ELLIPSE": (4, 4)}
)
"""Fewest and most points of each graphic type (PS3.3 C.18.6.1.2)."""


def concept(item: Dataset) -> tuple[str, str]:
    """(code value, scheme) of what an item is about; empty where it has no name."""
    names = item.get("ConceptNameCodeSequence") or [Dataset()]
    return _code(names[0])


def value(item: Dataset) -> tuple[str, str]:
    """(code value, scheme) of the value of a CODE item."""
    codes = item.get("ConceptCodeSequence") or [Dataset()]
    return _code(codes[0])


def _code(item: Dataset) -> tuple[str, str]:
    """Value and scheme of a code (PS3.3 8.1): beyond 16 characters it is a Long Code Value, or a URN."""
    values = (item.get(keyword) for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    return str(next(filter(None, values), "")), str(item.get("CodingSchemeDesignator") or "")


def children(item: Dataset, *codes: str) -> list[Dataset]:
    """The children of an item that are about one of these DCM or other code values."""
    return [child for child in item.get("ContentSequence") or () if concept(child)[0] in codes]


def walk(item: Dataset, path: Path = (1,)) -> Iterator[tuple[Path, Dataset, Dataset]]:
    """(position counted from 1, parent, item) of everything below an item."""
    for number, child in enumerate(item.get("ContentSequence") or (), 1):
        yield (*path, number), item, child
        yield from walk(child, (*path, number))


def at(root: Dataset, path: Sequence[int]) -> Dataset | None:
    """The item at a position (PS3.3 C.17.3.2.5); None where there is none."""
    item = root
    if list(path[:1]) != [1]:
        return None
    for step in path[1:]:
        items = item.get("ContentSequence") or ()
        if not 1 <= step <= len(items):
            return None
        item = items[step - 1]
    return item


def defects(ds: Dataset, sizes: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """What is wrong with the tree of a document, in words. sizes: (rows, columns) of images by SOP Instance UID."""
    if str(ds.get("SOPClassUID")) not in SR_CLASSES:
        return
    allowed = _NARROWER.get(str(ds.SOPClassUID), frozenset(_VALUES))
    for path, parent, item in walk(ds):
        where = "item " + ".".join(map(str, path))
        relation = str(item.get("RelationshipType") or "")
        target = item
        if "ReferencedContentItemIdentifier" in item:
            found = at(ds, _path(item))
            if found is None:
                yield f"{where} refers to an item that is not there"
                continue
            target = found
        else:
            yield from (f"{where} {words}" for words in _item(item, allowed))
        sources, targets = _RELATIONS.get(relation, (frozenset(), frozenset()))
        kinds = str(parent.get("ValueType")), str(target.get("ValueType"))
        if kinds[0] not in sources or kinds[1] not in targets:
            yield f"{where}: {kinds[0]} {relation or 'without a relationship'} {kinds[1]} is not allowed"
        if item.get("ValueType") == "SCOORD":
            yield from (f"{where} {words}" for words in _coordinates(ds, item, sizes))


def _path(item: Dataset) -> list[int]:
    found = item.ReferencedContentItemIdentifier
    return [int(found)] if isinstance(found, int) else [int(each) for each in found]


def _item(item: Dataset, allowed: frozenset[str]) -> Iterator[str]:
    kind = str(item.get("ValueType") or "")
    if kind not in allowed:
        yield f"has the value type {kind or 'missing'}, which the SOP class does not know"
        return
    for keyword in _VALUES[kind]:
        if not item.get(keyword):
            yield f"has no {keyword}"
    if kind not in ("IMAGE", "COMPOSITE", "WAVEFORM", "CONTAINER") and not concept(item)[0]:
        yield "has no concept name"
    if kind == "NUM":
        for measured in item.get("MeasuredValueSequence") or ():
            if not measured.get("MeasurementUnitsCodeSequence"):
                yield "is a number without its unit"
            if measured.get("NumericValue") is None:
                yield "is a measurement without its number"


def _coordinates(ds: Dataset, item: Dataset, sizes: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """PS3.3 C.18.6: pairs as the graphic type wants them, on the image that they are selected from."""
    data = [float(each) for each in item.get("GraphicData") or ()]
    kind = str(item.get("GraphicType") or "")
    low, high = _POINTS.get(kind, (0, -1))
    if len(data) % 2 or not low <= len(data) // 2 <= high:
        yield f"has {len(data)} numbers for a {kind or 'missing graphic type'}"
        return
    images = []
    for child in item.get("ContentSequence") or ():
        target = at(ds, _path(child)) if "ReferencedContentItemIdentifier" in child else child
        if target is not None and target.get("ValueType") == "IMAGE":
            images += [str(each.ReferencedSOPInstanceUID) for each in target.get("ReferencedSOPSequence") or ()]
    if not images:
        yield "is a place on no image"
    for uid in images:
        rows, columns = sizes.get(uid, (0, 0))
        if rows and not all(0 <= x <= columns and 0 <= y <= rows for x, y in zip(data[::2], data[1::2], strict=True)):
            yield "lies outside of its image"
