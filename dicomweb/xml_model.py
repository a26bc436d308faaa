"""The Native DICOM Model in XML (PS3.19 A.1), written from the DICOM JSON model (PS3.18 F.2); no XML is read here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pacs.dicom import dictionary

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
)
_NAME_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def dumps(dataset: Mapping[str, Any]) -> bytes:
    """One data set as an XML document in UTF-8.

    Characters that XML 1.0 cannot hold, not even escaped, become U+FFFD.
    """
    out = [_HEAD]
    _attributes(dataset, out)
    out.append("</NativeDicomModel>")
    return "".join(out).encode("utf-8")


def _text(value: Any) -> str:
    # XML has no other way to keep a carriage return than a character reference.
    return escape(_FORBIDDEN.sub("\ufffd", str(value)), {"\r": "&#13;"})


def _attributes(dataset: Mapping[str, Any], out: list[str]) -> None:
    creators = {
        tag[:4] + tag[6:]: str(element["Value"][0])
        for tag, element in dataset.items()
        if tag[3] in "13579BDF" and tag[4:6] == "00" and element.get("Value")
    }
    for tag, element in dataset.items():
        names = f'tag="{tag}" vr="{element["vr"]}"'
        keyword = dictionary.keyword(int(tag, 16))
        if keyword:
            names += f' keyword="{keyword}"'
        creator = creators.get(tag[:6])
        if creator is not None and tag[3] in "13579BDF":
            # PS3.19 A.1.5.2: the creator is named, so the block number is not needed.
            names = f'tag="{tag[:4]}00{tag[6:]}" vr="{element["vr"]}" privateCreator={quoteattr(_plain(creator))}'
        out.append(f"<DicomAttribute {names}>")
        if "BulkDataURI" in element:
            out.append(f"<BulkData uri={quoteattr(element['BulkDataURI'])}/>")
        elif "InlineBinary" in element:
            out.append(f"<InlineBinary>{element['InlineBinary']}</InlineBinary>")
        else:
            for number, value in enumerate(element.get("Value", ()), 1):
                _value(element["vr"], number, value, out)
        out.append("</DicomAttribute>")


def _plain(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _value(vr: str, number: int, value: Any, out: list[str]) -> None:
    if vr == "SQ":
        out.append(f'<Item number="{number}">')
        _attributes(value or {}, out)
        out.append("</Item>")
    elif vr == "PN":
        out.append(f'<PersonName number="{number}">')
        for group in ("Alphabetic", "Ideographic", "Phonetic"):
            if value and value.get(group):
                parts = zip(_NAME_PARTS, value[group].split("^"), strict=False)
                inner = "".join(f"<{name}>{_text(part)}</{name}>" for name, part in parts if part)
                out.append(f"<{group}>{inner}</{group}>")
        out.append("</PersonName>")
    else:
        out.append(f'<Value number="{number}">{"" if value is None else _text(value)}</Value>')
