"""What the data dictionary (PS3.6) says of a tag: its VR, for data sets that do not say it themselves."""

from __future__ import annotations

from functools import cache

from pydicom.datadict import DicomDictionary, RepeatersDictionary


@cache
def _vrs() -> dict[int, str]:
    known = {int(tag): str(row[0]) for tag, row in DicomDictionary.items()}
    for mask, row in RepeatersDictionary.items():
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
