"""The rules of the DICOM JSON Model (PS3.18 annex F), held against any object: what is wrong, in words."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

TAG = re.compile(r"[0-9A-F]{8}")
STRINGS = ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
NUMBERS = ("FL", "FD", "SL", "SS", "UL", "US")
EITHER = ("DS", "IS", "SV", "UV")
BINARY = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
KNOWN = {*STRINGS, *NUMBERS, *EITHER, *BINARY, "AT", "PN", "SQ"}
SINGLE = ("LT", "ST", "UT", "UR")
GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def faults(attributes: dict[str, Any], path: str = "") -> Iterator[str]:
    """What breaks a rule, each with the section that is broken."""
    names = list(attributes)
    if names != sorted(names):
        yield f"{path or 'object'}: names not in ascending order (F.2.2)"
    for tag, element in attributes.items():
        here = f"{path}{tag}"
        if not TAG.fullmatch(tag):
            yield f"{here}: not eight upper-case hexadecimal digits (F.2.2)"
            continue
        if tag.endswith("0000"):
            yield f"{here}: a group length (F.2.2)"
        if not isinstance(element, dict):
            yield f"{here}: not an object (F.2.2)"
            continue
        yield from _element(here, element)


def _element(here: str, element: dict[str, Any]) -> Iterator[str]:
    vr = element.get("vr")
    if vr not in KNOWN:
        yield f"{here}: vr is {vr!r} (F.2.2)"
        return
    unknown = set(element) - {"vr", "Value", "BulkDataURI", "InlineBinary"}
    if unknown:
        yield f"{here}: unknown members {sorted(unknown)} (F.2.2)"
    forms = [name for name in ("Value", "BulkDataURI", "InlineBinary") if name in element]
    if len(forms) > 1:
        yield f"{here}: {' and '.join(forms)} together (F.2.2)"
    if "BulkDataURI" in element and (not isinstance(element["BulkDataURI"], str) or not element["BulkDataURI"]):
        yield f"{here}: BulkDataURI is no text (F.2.6)"
    if "InlineBinary" in element:
        if vr not in BINARY:
            yield f"{here}: InlineBinary for {vr} (F.2.7)"
        try:
            if not base64.b64decode(element["InlineBinary"], validate=True):
                yield f"{here}: empty InlineBinary (F.2.5)"
        except (binascii.Error, ValueError, TypeError):
            yield f"{here}: InlineBinary is no base64 (F.2.7)"
    if "Value" in element:
        yield from _values(here, str(vr), element["Value"])


def _values(here: str, vr: str, values: Any) -> Iterator[str]:
    if not isinstance(values, list) or not values:
        yield f"{here}: Value is no array, or an empty one (F.2.5)"
        return
    if vr in BINARY:
        yield f"{here}: Value for {vr} (F.2.7)"
        return
    if vr in SINGLE and len(values) > 1:
        yield f"{here}: several values for {vr} (F.2.4)"
    if values == [None] or values == [""]:
        yield f"{here}: an empty attribute with Value (F.2.5)"
    for number, value in enumerate(values):
        if vr == "SQ":
            if not isinstance(value, dict):
                yield f"{here}: an item is no object (F.2.2)"
            else:
                yield from faults(value, f"{here}[{number}].")
        elif value is None:
            continue
        elif vr == "PN":
            yield from _name(here, value)
        elif vr == "AT":
            if not isinstance(value, str) or not TAG.fullmatch(value):
                yield f"{here}: {value!r} is no tag (F.2.3)"
        elif vr in STRINGS:
            if not isinstance(value, str) or value == "":
                yield f"{here}: {value!r} for {vr} (F.2.3)"
            elif vr == "UI" and not re.fullmatch(r"[0-9.]+", value):
                yield f"{here}: {value!r} with padding or no UID (F.2.1)"
        elif isinstance(value, bool) or not isinstance(value, (int, float, str)):
            yield f"{here}: {value!r} for {vr} (F.2.3)"
        elif vr in NUMBERS and isinstance(value, str) and not (vr in ("FL", "FD") and value in ("NaN", "inf", "-inf")):
            yield f"{here}: a string for {vr} (F.2.3)"
        elif vr == "IS" and isinstance(value, float):
            yield f"{here}: {value!r} for IS (F.2.3)"


def _name(here: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{here}: a name is no object (F.2.2)"
        return
    if set(value) - set(GROUPS):
        yield f"{here}: {sorted(set(value) - set(GROUPS))} in a name (F.2.2)"
    for group, text in value.items():
        if not isinstance(text, str) or text == "":
            yield f"{here}: {group} is empty (F.2.2)"
        elif "=" in text:
            yield f"{here}: {group} holds the delimiter of groups (F.2.2)"
