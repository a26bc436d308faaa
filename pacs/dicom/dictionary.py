"""What the data dictionary (PS3.6) says of a tag: its VR, for data sets that do not say it themselves."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

_Rows = dict[Any, tuple[str, str, str, str, str]]
"""VR, VM, name, "Retired" or nothing, keyword."""


@cache
def _tables() -> tuple[_Rows, _Rows]:
    """pydicom's tables of tags and of repeating groups, read without the package: that would cost 40 MB of memory."""
    package = find_spec("pydicom")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "_dicom_dict.py"
    spec = spec_from_file_location("pacs.dicom._pydicom_dictionary", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DicomDictionary, module.RepeatersDictionary


@cache
def _repeating() -> tuple[tuple[int, int, str], ...]:
    """Fixed bits, their mask and keyword of the repeating groups."""
    masks = ((key, row[4]) for key, row in _tables()[1].items())
    return tuple(
        (int(key.replace("x", "0"), 16), int("".join("0" if c == "x" else "F" for c in key), 16), keyword)
        for key, keyword in masks
    )


@cache
def _tags() -> dict[str, int]:
    return {row[4]: int(tag) for tag, row in _tables()[0].items() if row[4]}


def keyword(tag: int) -> str:
    """The keyword of a public tag, repeating groups included; empty where it has none."""
    row = _tables()[0].get(tag)
    if row is not None:
        return row[4]
    return next((name for fixed, mask, name in _repeating() if tag & mask == fixed), "")


def multiple(tag: int) -> bool:
    """Whether a public tag may have more than one value (its VM in PS3.6 is greater than 1)."""
    row = _tables()[0].get(tag)
    return row is not None and row[1] not in ("", "1")


def tag(name: str) -> int | None:
    """The tag of a keyword; None for a word that is none."""
    return _tags().get(name)


@cache
def _vrs() -> dict[int, str]:
    known = {int(tag): str(row[0]) for tag, row in _tables()[0].items()}
    for mask, row in _tables()[1].items():
        # Curves (50xx) and overlays (60xx), PS3.6 section 6; other repeating tags have been retired since 1988.
        if mask[:4] in ("50xx", "60xx"):
            known[int(mask.replace("x", "0"), 16)] = str(row[0])
    return known


class _Names(dict[int, str]):
    def __missing__(self, tag: int) -> str:
        return f"{tag:08X}"


@cache
def names() -> dict[int, str]:
    """Tag to its eight hexadecimal digits: looked up for public tags, made for all others."""
    return _Names((tag, f"{tag:08X}") for tag in _vrs())


def vr(tag: int) -> str | None:
    """The VR of a public tag, "US or SS" and the like as the dictionary has them; None for unknown tags.

    Private creators (gggg,0010-00FF with an odd group) are LO (PS3.5 7.8.1); other private tags are unknown.
    """
    group = tag >> 16
    if group & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else None
    found = _vrs().get(tag)
    if found is None and group >> 8 in (0x50, 0x60):
        found = _vrs().get(tag & 0xFF00FFFF)
    return None if found == "NONE" else found
