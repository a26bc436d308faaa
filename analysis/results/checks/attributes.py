"""Owns the check of one object by itself: what its IOD requires, values as their VRs allow, codes, File Meta."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.valuerep import validate_value

from analysis.results.checks.macros import ENUMERATED, MACROS, NEVER_EMPTY, POSITIVE, TOGETHER
from analysis.results.checks.modules import IODS, Attribute

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR"})
_CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
_SYNTAXES = frozenset({"1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"})


class Inherited:
    """Values that the inputs of a task hold: a result that repeats them is not to blame for what they are."""

    def __init__(self, sources: Sequence[Dataset]) -> None:
        self._sources = sources
        self._values: set[str] | None = None
        self._codes: set[frozenset[tuple[str, str]]] | None = None

    def __contains__(self, value: str) -> bool:
        if self._values is None:  # seldom asked: only for what looks wrong
            elements = (each for ds in self._sources for each in ds.iterall() if each.VR != "SQ")
            self._values = {text for element in elements for text in _each(element)}
        return value in self._values

    def has_code(self, item: Dataset) -> bool:
        """Whether an item of a code sequence is one of the inputs', element by element."""
        if self._codes is None:
            self._codes = {_content(each) for ds in self._sources for each in _items(ds)}
        return _content(item) in self._codes

    def repeats(self, element: DataElement) -> bool:
        """Whether an element is one of the inputs' own, as they have it."""
        return any(element.tag in ds and ds[element.tag] == element for ds in self._sources[:1])


def defects(ds: Dataset, inherited: Inherited) -> Iterator[str]:
    """What is wrong with a data set that was read from its file, in words."""
    yield from _file_meta(ds)
    module = IODS.get(str(ds.get("SOPClassUID")), ())
    yield from _required(ds, module, "")
    schemes = {str(item.get("CodingSchemeDesignator")) for item in ds.get("CodingSchemeIdentificationSequence") or ()}
    yield from _values(ds, "", schemes, inherited)
    yield from _everywhere(ds, "", inherited)


def _file_meta(ds: Dataset) -> Iterator[str]:
    """PS3.10 7.1: what the File Meta Information says is what the data set says."""
    meta = getattr(ds, "file_meta", Dataset())
    for said, true in (
        ("MediaStorageSOPClassUID", "SOPClassUID"),
        ("MediaStorageSOPInstanceUID", "SOPInstanceUID"),
    ):
        if str(meta.get(said)) != str(ds.get(true)):
            yield f"{said} of the File Meta Information is not the {true}"
    if str(meta.get("TransferSyntaxUID")) not in _SYNTAXES:
        yield "a transfer syntax that results are not written in"


def _required(ds: Dataset, attributes: Sequence[Attribute], where: str) -> Iterator[str]:
    for each in attributes:
        name = where + each.keyword
        if each.type.endswith("C") and not (each.when is not None and each.when(ds)):
            continue
        if each.keyword not in ds:
            yield f"{name} is missing (Type {each.type})"
            continue
        value = ds[each.keyword].value
        if _empty(value):
            if each.type.startswith("1"):
                yield f"{name} is empty (Type {each.type})"
            continue
        if each.values and value not in each.values:
            yield f"{name} has a value that is not allowed"
        if isinstance(value, Sequence) and ds[each.keyword].VR == "SQ":
            for number, item in enumerate(value, 1):
                yield from _required(item, each.items, f"{name}[{number}].")


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | bytes | Sequence) and len(value) == 0)


def _values(ds: Dataset, where: str, schemes: set[str], inherited: Inherited) -> Iterator[str]:
    for element in ds:
        name = where + (element.keyword or str(element.tag))
        if element.VR == "SQ":
            for number, item in enumerate(element.value, 1):
                inner = f"{name}[{number}]."
                if element.keyword.endswith("CodeSequence") and not _taken_over(item, inherited):
                    yield from _code(item, inner, schemes)
                yield from _values(item, inner, schemes, inherited)
        elif element.VR == "UI":
            for uid in _each(element):
                if (len(uid) > 64 or not _UID.fullmatch(uid)) and uid not in inherited:
                    yield f"{name} is no UID (PS3.5 9.1)"
        elif not _empty(element.value) and not _lawful(element, inherited):
            yield f"{name} has a value that its VR {element.VR} forbids (PS3.5 6.2)"
        if not element.tag.is_private and element.keyword and not _right_vr(element):
            yield f"{name} has the VR {element.VR} (PS3.6)"


def _everywhere(ds: Dataset, where: str, inherited: Inherited) -> Iterator[str]:
    """What holds in any item of any object (`macros`); patient and study are their input's."""
    for element in ds:
        name = where + element.keyword
        if not where and inherited.repeats(element):
            continue
        if _empty(element.value):
            if element.keyword in NEVER_EMPTY:
                yield f"{name} is there and empty"
        elif element.VR == "SQ":
            for number, item in enumerate(element.value, 1):
                inner = f"{name}[{number}]."
                yield from _required(item, MACROS.get(element.keyword, ()), inner)
                yield from _everywhere(item, inner, inherited)
        elif element.keyword in ENUMERATED:
            if any(each not in ENUMERATED[element.keyword] and each not in inherited for each in _each(element)):
                yield f"{name} has a value that is not allowed"
        elif element.keyword in POSITIVE and any(float(each) <= 0 for each in _each(element)):
            yield f"{name} is not above zero"
    for one, other in TOGETHER:
        if (one in ds) != (other in ds):
            yield f"{where}{one} and {other} are not both there"


def _each(element: DataElement) -> list[str]:
    value = element.value
    if _empty(value):
        return []
    return [str(each) for each in (value if isinstance(value, list | tuple | MultiValue) else [value])]


def _items(ds: Dataset) -> Iterator[Dataset]:
    """Every item of every sequence."""
    for element in ds:
        for item in element.value if element.VR == "SQ" else ():
            yield item
            yield from _items(item)


def _content(item: Dataset) -> frozenset[tuple[str, str]]:
    return frozenset((element.keyword, text) for element in item for text in _each(element))


def _taken_over(item: Dataset, inherited: Inherited) -> bool:
    """Whether a code that is not whole is one of an input."""
    whole = item.get("CodeMeaning") and item.get("CodingSchemeDesignator") and any(item.get(k) for k in _CODE_VALUES)
    if whole and not str(item.CodingSchemeDesignator).startswith("99"):
        return False
    return inherited.has_code(item)


def _lawful(element: DataElement, inherited: Inherited) -> bool:
    if element.VR not in _TEXT:
        return True
    for value in _each(element):
        try:
            validate_value(element.VR, value, config.RAISE)
        except ValueError:
            if value not in inherited:
                return False
    return True


def _right_vr(element: DataElement) -> bool:
    allowed = dictionary_VR(element.tag)
    return element.VR in allowed or element.VR == "UN"


def _code(item: Dataset, where: str, schemes: set[str]) -> Iterator[str]:
    """PS3.3 8.8: one value, its scheme, its meaning; a private scheme is told of in the SOP Common module."""
    values = [keyword for keyword in _CODE_VALUES if item.get(keyword)]
    if len(values) != 1:
        yield f"{where[:-1]} has {'no' if not values else 'more than one'} code value"
    if not item.get("CodeMeaning"):
        yield f"{where[:-1]} has no code meaning"
    scheme = str(item.get("CodingSchemeDesignator") or "")
    if not scheme and values != ["URNCodeValue"]:
        yield f"{where[:-1]} has no coding scheme"
    if scheme.startswith("99") and scheme not in schemes:
        yield f"{where[:-1]} is of a private coding scheme that is not identified"
