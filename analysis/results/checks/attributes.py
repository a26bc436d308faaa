"""Owns the check of one object by itself: what its IOD requires, values as their VRs allow, codes, File Meta."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.valuerep import validate_value

from analysis.results.checks import concepts
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
    schemes = {str(item.get("CodingSchemeDesignator")) for item in ds.get("CodingSchemeIdentificationSequence") or ()}
    look = _Look(inherited, schemes)
    yield from look.required(ds, module, "")
    yield from look.values(ds, "")


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


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | bytes | Sequence) and len(value) == 0)


class _Look:
    """One look at a data set: every element is decoded and named once. schemes: the private ones that it identifies."""

    def __init__(self, inherited: Inherited, schemes: set[str]) -> None:
        self._inherited = inherited
        self._schemes = schemes
        self._seen: dict[int, dict[str, DataElement]] = {}

    def _elements(self, ds: Dataset) -> dict[str, DataElement]:
        """By keyword, or by tag where there is none."""
        found = self._seen.get(id(ds))
        if found is None:
            found = self._seen[id(ds)] = {_name(element.tag): element for element in ds}
        return found

    def required(self, ds: Dataset, attributes: Sequence[Attribute], where: str) -> Iterator[str]:
        """What the tables want of it."""
        elements = self._elements(ds)
        for each in attributes:
            if each.type.endswith("C") and not (each.when is not None and each.when(ds)):
                continue
            element = elements.get(each.keyword)
            if element is None:
                yield f"{where}{each.keyword} is missing (Type {each.type})"
                continue
            value = element.value
            if _empty(value):
                if each.type.startswith("1"):
                    yield f"{where}{each.keyword} is empty (Type {each.type})"
                continue
            if each.values and value not in each.values:
                yield f"{where}{each.keyword} has a value that is not allowed"
            if each.items and element.VR == "SQ":
                for number, item in enumerate(value, 1):
                    yield from self.required(item, each.items, f"{where}{each.keyword}[{number}].")

    def values(self, ds: Dataset, where: str, within: bool = True) -> Iterator[str]:
        """What is wrong with its values, and with the items of its sequences (`macros`).

        within: False in what an input says as it is; it may lack what ours may not.
        """
        elements = self._elements(ds)
        for keyword, element in elements.items():
            vr, value = element.VR, element.value
            own = within and (bool(where) or not self._inherited.repeats(element))
            if not _right_vr(element.tag, vr):
                yield f"{where}{keyword} has the VR {vr} (PS3.6)"
            if vr == "SQ":
                yield from self._sequence(keyword, value, where, own)
            elif _empty(value):
                if own and keyword in NEVER_EMPTY:
                    yield f"{where}{keyword} is there and empty"
            else:
                yield from self._value(keyword, element, where, own)
        for one, other in TOGETHER if within else ():
            if (one in elements) != (other in elements):
                yield f"{where}{one} and {other} are not both there"

    def _sequence(self, keyword: str, items: Sequence[Dataset], where: str, own: bool) -> Iterator[str]:
        if own and keyword in NEVER_EMPTY and not items:
            yield f"{where}{keyword} is there and empty"
        coded, macro = keyword.endswith("CodeSequence"), MACROS.get(keyword, ()) if own else ()
        for number, item in enumerate(items, 1):
            name = f"{where}{keyword}[{number}]"
            if coded and not _taken_over(item, self._inherited):
                yield from _code(item, name, self._schemes)
                if concepts.unknown(item) and not self._inherited.has_code(item):
                    yield f"{name} is not as PS3.16 has the code"
            yield from self.required(item, macro, f"{name}.")
            yield from self.values(item, f"{name}.", own)

    def _value(self, keyword: str, element: DataElement, where: str, own: bool) -> Iterator[str]:
        if element.VR == "UI":
            for uid in _each(element):
                if (len(uid) > 64 or not _UID.fullmatch(uid)) and uid not in self._inherited:
                    yield f"{where}{keyword} is no UID (PS3.5 9.1)"
        elif not _lawful(element, self._inherited):
            yield f"{where}{keyword} has a value that its VR {element.VR} forbids (PS3.5 6.2)"
        if own and keyword in ENUMERATED:
            if any(each not in ENUMERATED[keyword] and each not in self._inherited for each in _each(element)):
                yield f"{where}{keyword} has a value that is not allowed"
        elif own and keyword in POSITIVE and any(float(each) <= 0 for each in _each(element)):
            yield f"{where}{keyword} is not above zero"


@lru_cache(maxsize=4096)
def _name(tag: BaseTag) -> str:
    return keyword_for_tag(tag) or str(tag)


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
    return all(_valid(element.VR, value) or value in inherited for value in _each(element))


@lru_cache(maxsize=4096)
def _valid(vr: str, value: str) -> bool:
    try:
        validate_value(vr, value, config.RAISE)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=4096)
def _right_vr(tag: BaseTag, vr: str) -> bool:
    if tag.is_private or not keyword_for_tag(tag):
        return True
    return vr in dictionary_VR(tag) or vr == "UN"


def _code(item: Dataset, where: str, schemes: set[str]) -> Iterator[str]:
    """PS3.3 8.8: one value, its scheme, its meaning; a private scheme is told of in the SOP Common module."""
    values = [keyword for keyword in _CODE_VALUES if item.get(keyword)]
    if len(values) != 1:
        yield f"{where} has {'no' if not values else 'more than one'} code value"
    if not item.get("CodeMeaning"):
        yield f"{where} has no code meaning"
    scheme = str(item.get("CodingSchemeDesignator") or "")
    if not scheme and values != ["URNCodeValue"]:
        yield f"{where} has no coding scheme"
    if scheme.startswith("99") and scheme not in schemes:
        yield f"{where} is of a private coding scheme that is not identified"
