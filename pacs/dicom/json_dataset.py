"""The DICOM JSON model to and from pydicom data sets, for what we write ourselves (PS3.18 annex F)."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.tag import Tag
from pydicom.valuerep import DSfloat

from pacs.dicom.values import inline_binary, json_float, json_integer
from pacs.errors import InvalidInput

_UTF8 = "ISO_IR 192"
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def to_dataset(metadata: Mapping[str, Any], bulk: Callable[[Any], Any] | None = None) -> Dataset:
    """The metadata as a data set, its text in UTF-8.

    `bulk` gives the bytes, or a file of them, for each BulkDataURI (text or `BulkRef`); without it such elements are
    left out. Raises InvalidInput naming the tag for values that their VR cannot hold. For our own metadata and for
    input that `loads` has checked; nested as deep as these allow.
    """
    ds = Dataset()
    plain = True
    for tag, entry in metadata.items():
        if tag == "00080005":
            plain = False
            continue
        vr = entry["vr"]
        try:
            if vr == "SQ":
                value: Any = [to_dataset(item, bulk) for item in entry.get("Value", [])]
                plain = plain and not any("SpecificCharacterSet" in item for item in value)
                for item in value:
                    item.pop("SpecificCharacterSet", None)
            elif "BulkDataURI" in entry:
                if bulk is None:
                    continue
                value = bulk(entry["BulkDataURI"])
                if vr == "UN" and not isinstance(value, bytes):
                    value = value.read()  # pydicom writes files of every binary VR but this
            elif "InlineBinary" in entry:
                value = a2b_base64(entry["InlineBinary"])
            else:
                values = [_value(vr, each) for each in entry.get("Value", [])]
                plain = plain and all(not isinstance(each, str) or each.isascii() for each in values)
                value = values[0] if len(values) == 1 else values or None
            ds.add(DataElement(Tag(int(tag, 16)), vr, value, validation_mode=config.IGNORE))
        except (ValueError, TypeError, OverflowError, KeyError):
            raise InvalidInput(f"value that VR {vr} cannot hold", about=tag) from None
    if not plain:
        ds.SpecificCharacterSet = _UTF8
    return ds


def _value(vr: str, value: Any) -> Any:
    if value is None:
        return ""
    match vr:
        case "PN":
            return "=".join(value.get(group, "") for group in _GROUPS).rstrip("=")
        case "AT":
            return int(value, 16)
        case "DS" if isinstance(value, int | float):
            return DSfloat(value, auto_format=True)
        case "FL" | "FD":
            return float(value)
        case "SV" | "UV":
            return int(value)
    return value


def from_dataset(ds: Dataset) -> dict[str, Any]:
    """The data set in the DICOM JSON model, ascending, every value inline; text is UTF-8 and says so."""
    if any(" or " in str(element.VR) for element in ds):
        ds = correct_ambiguous_vr(deepcopy(ds), True)
    out: dict[str, Any] = {}
    for element in ds:
        if element.tag.element == 0 or element.tag.group in (0, 2):
            continue
        out[f"{int(element.tag):08X}"] = _entry(element)
    return dict(sorted(out.items()))


def _entry(element: DataElement) -> dict[str, Any]:
    vr = str(element.VR)
    if vr == "SQ":
        items = [from_dataset(item) for item in element.value]
        return {"vr": vr, "Value": items} if items else {"vr": vr}
    if element.tag == 0x00080005:
        return {"vr": vr, "Value": [_UTF8]} if element.value else {"vr": vr}
    if isinstance(element.value, bytes):
        return {"vr": vr, "InlineBinary": inline_binary(element.value, 1, True)} if element.value else {"vr": vr}
    entry: dict[str, Any] = element.to_json_dict(None, 0)
    values = entry.get("Value")
    if values is not None:
        values = [_json(vr, value) for value in values]
        if any(value is not None for value in values) or len(values) > 1:
            return {"vr": vr, "Value": values}
    return {"vr": vr}


def _json(vr: str, value: Any) -> Any:
    if value == "" or value == {}:
        return None
    match vr:
        case "FL" | "FD":
            return json_float(float(value))
        case "SV" | "UV":
            return json_integer(int(value))
        case "DS" if isinstance(value, float):
            return json_float(value)
    return value
