"""What codes mean by the tables of PS3.16, and whether somebody who writes one says the same.

A Code Meaning may be a synonym (PS3.3 8.3), and the tables do not have all of them: one that shares no word with any of
theirs is another thing. Of DCM, of units and of what the templates of our reports fix, the tables have them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from pydicom.sr._concepts_dict import concepts

from analysis.results.checks.concepts import NAMES, VALUES

_UNITS: Mapping[str, str] = MappingProxyType(
    {"mm": "millimeter", "cm": "centimeter", "m": "meter", "um": "micrometer", "mm2": "square millimeter"}
    | {"cm2": "square centimeter", "mm3": "cubic millimeter", "cm3": "cubic centimeter", "mL": "milliliter"}
    | {"ml": "milliliter", "L": "liter", "%": "percent", "1": "no units", "s": "second", "g": "gram", "kg": "kilogram"}
    | {"deg": "degree", "[hnsf'U]": "Hounsfield unit"}
)
"""Names of units that PS3.16 uses, and does not name or names by their code value."""

_ANNOTATION = re.compile(r"\{[!-z|~]+\}")
_TAG = re.compile(r"(?<=\S) \([a-z /]+\)$")  # "Bone (body structure)"
_SPELLINGS = (
    *(("metre", "meter"), ("litre", "liter"), ("centre", "center"), ("fibre", "fiber"), ("colour", "color")),
    *(("tumour", "tumor"), ("oedema", "edema"), ("haem", "hem"), ("oesoph", "esoph"), ("grey", "gray")),
)
_SAY_NOTHING = frozenset(
    [
        *("a", "an", "and", "by", "for", "in", "of", "on", "or", "the", "to", "with"),
        *("structure", "finding", "disorder", "procedure", "entity"),
    ]
)
_STEM = 4  # letters: "calcified" and "calcification"


def contradicted(scheme: str, code: str, meaning: str) -> str:
    """What the code means, where that is not `meaning`; "" where it is, or where the tables do not have the code."""
    known = _known(scheme, code)
    if not known or _plain(meaning) in map(_plain, known):
        return ""
    if scheme in ("DCM", "UCUM") or (scheme, code) in _FIXED or not _words([meaning]) & _words(known):
        return known[0]
    return ""


def is_unit(code: str) -> bool:
    """Whether a code is made of units of UCUM that PS3.16 uses, or of annotations in braces; others may be it, too."""
    parts = [part for part in re.split(r"[./]", code) if part]
    return bool(parts) and all(_ANNOTATION.fullmatch(part) or _known("UCUM", part) for part in parts)


@lru_cache(maxsize=1024)
def _known(scheme: str, code: str) -> tuple[str, ...]:
    found = [_FIXED[scheme, code]] if (scheme, code) in _FIXED else []
    found += [entry[code][0] for entry in concepts.get(scheme, {}).values() if code in entry]
    if scheme == "UCUM" and (found or code in _UNITS):
        # A unit may be called by its own code value (PS3.16 7.2.2).
        found = [*filter(None, [_UNITS.get(code)]), *found, code]
    return tuple(dict.fromkeys(found))


def _fixed() -> Iterator[tuple[tuple[str, str], str]]:
    for table in (NAMES, *VALUES.values()):
        yield from (((scheme, code), meaning) for code, (scheme, meaning) in table.items())


_FIXED: Mapping[tuple[str, str], str] = MappingProxyType(dict(_fixed()))


def _plain(meaning: str) -> str:
    """Without upper case, British spelling, places where a line may break, or SNOMED's tag in brackets."""
    text = _TAG.sub("", meaning.replace("\u200b", "").strip().casefold())
    for british, american in _SPELLINGS:
        text = text.replace(british, american)
    return text


def _words(meanings: Iterable[str]) -> set[str]:
    """The stems of what they say."""
    found = {word for each in meanings for word in re.findall(r"\w+", _plain(each))}
    return {word[:_STEM] for word in found - _SAY_NOTHING}
