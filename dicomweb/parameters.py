"""The query parameters of every resource: TABLE, by name, for the routes table and the documents made from it.

A resource names those it understands; parameters that it does not name are ignored (PS3.18 8.3). How a parameter is
read is decided where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter: its XML Schema type, the section that rules it, and what it does.

    `values` are all values that mean something, where they can be listed; `repeats` where it may be given again.
    """

    name: str
    type: str
    section: str
    doc: str
    values: tuple[str, ...] = ()
    repeats: bool = False


_FLAG = ("true", "false")

# fmt: off
_ROWS: tuple[Parameter, ...] = (
    Parameter("accept", "string", "8.3.3.1", "acceptable media types; tried before the Accept header", repeats=True),
    Parameter("charset", "string", "8.3.3.2", "acceptable character sets; text is always UTF-8"),
    Parameter("{attribute}", "string", "8.3.4.1",
        "a matching key: keyword or tag, of nested sequences joined by dots", repeats=True),
    Parameter("fuzzymatching", "boolean", "8.3.4.2", "names match by the sound of their words", _FLAG),
    Parameter("includefield", "string", "8.3.4.3", "keywords or tags to return too, or all", repeats=True),
    Parameter("limit", "unsignedInt", "8.3.4.4", "most results of one answer"),
    Parameter("offset", "unsignedInt", "8.3.4.4", "results to skip"),
    Parameter("emptyvaluematching", "boolean", "8.3.4.5", 'the key "" matches attributes that are empty', _FLAG),
    Parameter("multiplevaluematching", "boolean", "8.3.4.6", "keys may list several values", _FLAG),
    Parameter("annotation", "string", "8.3.5.1.1", "text burnt in", ("patient", "technique")),
    Parameter("quality", "unsignedByte", "8.3.5.1.2", "of lossy representations, 1 to 100"),
    Parameter("viewport", "string", "8.3.5.1.3", "vw,vh and optionally sx,sy,sw,sh in pixels"),
    Parameter("window", "string", "8.3.5.1.4", "center,width,function"),
    Parameter("iccprofile", "string", "8.3.5.1.5", "colour profile of the representation",
        ("no", "yes", "srgb", "adobergb", "rommrgb", "displayp3")),
    Parameter("requestType", "string", "9.1.2.1.1", "the URI service", ("WADO",)),
    Parameter("studyUID", "string", "9.1.2.1.2", "Study Instance UID"),
    Parameter("seriesUID", "string", "9.1.2.1.3", "Series Instance UID"),
    Parameter("objectUID", "string", "9.1.2.1.4", "SOP Instance UID"),
    Parameter("contentType", "string", "9.1.2.2.1", "acceptable media types, joined by commas"),
    Parameter("transferSyntax", "string", "9.4.1.2.3", "transfer syntax of application/dicom"),
    Parameter("anonymize", "string", "9.4.1.2.1", "not supported: answered with 406, never ignored", ("yes",)),
    Parameter("frameNumber", "unsignedInt", "9.5.1.2.1", "the frame to show, counted from 1"),
    Parameter("imageAnnotation", "string", "9.5.1.2.2", "text burnt in; or annotation", ("patient", "technique")),
    Parameter("imageQuality", "unsignedByte", "9.5.1.2.3", "of lossy representations, 1 to 100"),
    Parameter("rows", "unsignedInt", "9.5.1.2.4.1", "most rows of the picture, which keeps its shape"),
    Parameter("columns", "unsignedInt", "9.5.1.2.4.2", "most columns of the picture, which keeps its shape"),
    Parameter("region", "string", "9.5.1.2.5", "left,top,right,bottom of what is shown, as parts of 1"),
    Parameter("windowCenter", "decimal", "9.5.1.2.6.1", "with windowWidth"),
    Parameter("windowWidth", "decimal", "9.5.1.2.6.2", "with windowCenter"),
    Parameter("presentationSeriesUID", "string", "9.5.1.2.7.1", "with presentationUID: the series of the state"),
    Parameter("presentationUID", "string", "9.5.1.2.7.2", "the presentation state that the picture is drawn with"),
    Parameter("{workitem}", "string", "11.4.1.2", "UID of the new Workitem, given as the query itself or as workitem="),
    Parameter("transaction-uid", "string", "11.6.1.2",
        "Transaction UID of the Workitem; also spelt transaction, Transaction-uid, or given as the query itself"),
    Parameter("deletionlock", "boolean", "11.10.1.2", "keep Workitems beyond their final state", _FLAG),
    Parameter("filter", "string", "11.10.1.2",
        "attribute=value pairs joined by commas; each may also stand in the query by itself"),
    Parameter("since", "unsignedLong", "extension", "sequence number after which to go on; 0 is the beginning"),
    Parameter("wait", "unsignedInt", "extension", "seconds to wait for the first change where there is none yet"),
)
# fmt: on
TABLE: dict[str, Parameter] = {row.name: row for row in _ROWS}

COMMON = ("accept", "charset")
SEARCH = ("{attribute}", "includefield", "fuzzymatching", "emptyvaluematching", "multiplevaluematching", "limit",
          "offset", *COMMON)  # fmt: skip
URI = (
    "requestType", "studyUID", "seriesUID", "objectUID", "contentType", "charset", "transferSyntax", "anonymize",
    "frameNumber", "imageAnnotation", "imageQuality", "rows", "columns", "region", "windowCenter", "windowWidth",
    "presentationSeriesUID", "presentationUID",
)  # fmt: skip
THUMBNAIL = ("viewport", *COMMON)
RENDERED = ("window", "viewport", "quality", "annotation", "iccprofile", *COMMON)
