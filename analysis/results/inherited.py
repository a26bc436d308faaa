"""Owns what results take over from their sources: patient and study as they are, made lawful where they are not."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import validate_value

_STUDY_TAGS = frozenset(
    Tag(tag)
    for tag in (
        0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080090, 0x00080092, 0x00080094, 0x00080096, 0x0008009C,
        0x0008009D, 0x00080201, 0x00081030, 0x00081032, 0x00081048, 0x00081049, 0x00081060, 0x00081062, 0x00081080,
        0x00081084, 0x00081110, 0x0020000D, 0x00200010, 0x00321033, 0x00321034, 0x00321066, 0x00321067, 0x00380010,
        0x00380014, 0x00380060, 0x00380062, 0x00380064,
    )
)  # fmt: skip
_CLINICAL_TRIAL_SERIES = frozenset({Tag(0x00120071), Tag(0x00120072), Tag(0x00120073)})
LENGTHS: Mapping[str, int] = MappingProxyType({"SH": 16, "LO": 64, "CS": 16, "AE": 16})
"""Characters of a value, by VR (PS3.5 6.2)."""

ALWAYS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
"""Type 2 attributes of patient and study, by keyword."""


def belongs(tag: BaseTag) -> bool:
    """Whether an attribute is one of the Patient, Patient Study, General Study or Clinical Trial modules."""
    return tag.group == 0x0010 or tag in _STUDY_TAGS or (tag.group == 0x0012 and tag not in _CLINICAL_TRIAL_SERIES)


def patient_and_study(origin: Dataset) -> Iterator[Any]:
    """Copies of the elements of the Patient, Patient Study, General Study and Clinical Trial modules of an instance.

    Real archives hold values that their VR forbids (PS3.5 6.2), and an object of ours must not: text that is too long
    is cut to its length, anything else that is wrong is left empty.
    """
    for tag in origin.keys():  # noqa: SIM118 - iterating a Dataset would decode every element
        if belongs(tag):
            yield taken(origin[tag])


def lawful_text(source: Dataset, keyword: str) -> str:
    """The value of an attribute where it is what its VR allows (PS3.5 6.2), else ""."""
    if not source.get(keyword):
        return ""
    return str(taken(source[keyword]).value or "")


def with_type_2(source: Dataset) -> Dataset:
    """A copy of an instance that shares its elements, those of patient and study as `finish` writes them, the Type 2
    ones empty where they are missing: highdicom insists on them and reads dates, real archives hold worse."""
    # A dictionary of its own: with the source's, as Dataset.copy() has it, what is changed here were changed there.
    ds = Dataset(
        {
            tag: taken(source[tag]) if belongs(tag) else source[tag]
            for tag in source.keys()  # noqa: SIM118 - of elements there is more to make
        }
    )
    for keyword in ALWAYS:
        if keyword not in ds:
            setattr(ds, keyword, None)
    # Its text is decoded, and `finish` says the character set; highdicom knows fewer than there are ("", "ISO 2022 …").
    ds.pop("SpecificCharacterSet", None)
    return ds


def taken(element: DataElement) -> DataElement:
    """A copy of an element of a source that an object of ours may hold: cut, or empty, where it is unlawful."""
    return _lawful(_copied(element))


def _copied(element: DataElement) -> DataElement:
    """A copy that may be changed without changing the other."""
    if element.VR == "SQ":
        return copy.deepcopy(element)
    return DataElement(element.tag, element.VR, element.value, already_converted=True)


def _lawful(element: DataElement) -> DataElement:
    if element.VR == "SQ":
        for item in element.value:
            for inner in item:
                item[inner.tag] = _lawful(inner)
        return element
    values = list(element.value) if element.VM > 1 else [element.value]
    if element.VR in LENGTHS:
        values = [value[: LENGTHS[element.VR]] if isinstance(value, str) else value for value in values]
    if not all(_is_lawful(element.VR, value) for value in values):
        return DataElement(element.tag, element.VR, None)
    if element.VR in LENGTHS:
        element.value = values if len(values) > 1 else values[0]
    return element


def _is_lawful(vr: str, value: Any) -> bool:
    # A UID is an identity: made empty, a result would lie in no study at all.
    if value is None or value == "" or not isinstance(value, str) or vr == "UI":
        return True
    try:
        validate_value(vr, value, config.RAISE)
        if vr == "DA":
            datetime.strptime(value, "%Y%m%d")  # 00000000 matches the pattern of DA
    except ValueError:
        return False
    return True


def deidentified(ds: Dataset) -> None:
    """Say how identity was removed where the source only says that it was (PS3.3 C.7.1.1, Type 1C)."""
    if ds.get("PatientIdentityRemoved") == "YES" and not (
        ds.get("DeidentificationMethod") or ds.get("DeidentificationMethodCodeSequence")
    ):
        ds.DeidentificationMethod = "Not stated by the source images"


def say_side(ds: Dataset, sources: Iterable[Dataset]) -> None:
    """Image Laterality of a picture where its sources say their side, else an empty Laterality.

    That is Type 2C (PS3.3 C.7.3.1), and nobody knows whether the part is paired; "U" would say that it is not.
    """
    sides = {str(source.get("ImageLaterality") or source.get("Laterality") or "") for source in sources}
    if sides in ({"L"}, {"R"}, {"B"}, {"U"}):
        ds.ImageLaterality = sides.pop()
    elif sides <= {"L", "R", "B"}:
        ds.ImageLaterality = "B"
    else:
        ds.Laterality = None
