"""Every resource and method of the DICOMweb service: TABLE, read by the application and by documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dicomweb import bulkdata, frames, qido, removal, rendered, stow, wado, worklist
from dicomweb.answers import Answer
from dicomweb.calls import Call

Handler = Callable[[Call], Awaitable[Answer]]

STUDY = "/studies/{study}"
SERIES = "/studies/{study}/series/{series}"
INSTANCE = "/studies/{study}/series/{series}/instances/{instance}"
WORKITEM = "/workitems/{workitem}"

_TEXT = ("application/dicom+json", "application/dicom+xml")
_OBJECTS = ("multipart/related; type=application/dicom", "application/dicom")
_VALUES = ("application/octet-stream", "multipart/related; type=application/octet-stream")
_IMAGES = ("image/jpeg", "image/png")


@dataclass(frozen=True, slots=True)
class Row:
    """One method of one resource: who answers it, the section of PS3.18 that rules it, what it answers in.

    `path` is below the root of the service. `media_types` begin with the default; empty where an answer has no body.
    """

    method: str
    path: str
    handler: Handler
    service: str
    section: str
    media_types: tuple[str, ...] = ()


# fmt: off
TABLE: tuple[Row, ...] = (
    Row("GET", INSTANCE + "/frames/{frames}", frames.retrieve, "WADO-RS", "10.4.1.1.6", (
        "multipart/related; type=application/octet-stream", "multipart/related; type=image/*",
        "application/octet-stream", "image/*")),
    Row("GET", "/studies", qido.studies, "QIDO-RS", "10.6", _TEXT),
    Row("POST", "/studies", stow.store, "STOW-RS", "10.5", _TEXT),
    Row("GET", STUDY + "/series", qido.series, "QIDO-RS", "10.6", _TEXT),
    Row("GET", STUDY + "/instances", qido.instances, "QIDO-RS", "10.6", _TEXT),
    Row("GET", SERIES + "/instances", qido.instances, "QIDO-RS", "10.6", _TEXT),
    Row("GET", "/series", qido.series, "QIDO-RS", "10.6", _TEXT),
    Row("GET", "/instances", qido.instances, "QIDO-RS", "10.6", _TEXT),
    Row("GET", STUDY + "/metadata", wado.metadata, "WADO-RS", "10.4.1.1.2", _TEXT),
    Row("GET", SERIES + "/metadata", wado.metadata, "WADO-RS", "10.4.1.1.2", _TEXT),
    Row("GET", INSTANCE + "/metadata", wado.metadata, "WADO-RS", "10.4.1.1.2", _TEXT),
    Row("GET", INSTANCE, wado.objects, "WADO-RS", "10.4.1.1.1", _OBJECTS),
    Row("DELETE", INSTANCE, removal.delete, "Removal", "none: an extension"),
    Row("GET", SERIES, wado.objects, "WADO-RS", "10.4.1.1.1", _OBJECTS[:1]),
    Row("DELETE", SERIES, removal.delete, "Removal", "none: an extension"),
    Row("GET", STUDY, wado.objects, "WADO-RS", "10.4.1.1.1", _OBJECTS[:1]),
    Row("POST", STUDY, stow.store, "STOW-RS", "10.5", _TEXT),
    Row("DELETE", STUDY, removal.delete, "Removal", "none: an extension"),
    Row("GET", INSTANCE + "/bulkdata/{path:path}", bulkdata.value, "WADO-RS", "10.4.1.1.5", _VALUES),
    Row("GET", INSTANCE + "/bulkdata", bulkdata.values, "WADO-RS", "10.4.1.1.5", _VALUES[1:]),
    Row("GET", SERIES + "/bulkdata", bulkdata.values, "WADO-RS", "10.4.1.1.5", _VALUES[1:]),
    Row("GET", STUDY + "/bulkdata", bulkdata.values, "WADO-RS", "10.4.1.1.5", _VALUES[1:]),
    Row("GET", INSTANCE + "/pixeldata", bulkdata.pixel_data, "WADO-RS", "10.4.1.1.6", _VALUES[1:]),
    Row("GET", SERIES + "/pixeldata", bulkdata.pixel_data, "WADO-RS", "10.4.1.1.6", _VALUES[1:]),
    Row("GET", STUDY + "/pixeldata", bulkdata.pixel_data, "WADO-RS", "10.4.1.1.6", _VALUES[1:]),
    Row("GET", INSTANCE + "/frames/{frames}/rendered", rendered.frame, "WADO-RS", "10.4.1.1.3", _IMAGES),
    Row("GET", INSTANCE + "/rendered", rendered.instances, "WADO-RS", "10.4.1.1.3", _IMAGES),
    Row("GET", SERIES + "/rendered", rendered.instances, "WADO-RS", "10.4.1.1.3", _IMAGES),
    Row("GET", STUDY + "/rendered", rendered.instances, "WADO-RS", "10.4.1.1.3", _IMAGES),
    Row("GET", "/workitems", worklist.search, "UPS-RS", "11.9", _TEXT),
    Row("POST", "/workitems", worklist.create, "UPS-RS", "11.4"),
    Row("GET", WORKITEM, worklist.retrieve, "UPS-RS", "11.5", _TEXT),
    Row("PUT", WORKITEM, worklist.update, "UPS-RS", "11.6"),
    Row("POST", WORKITEM, worklist.update, "UPS-RS", "11.6"),
    Row("PUT", WORKITEM + "/state", worklist.change_state, "UPS-RS", "11.7"),
    Row("PUT", WORKITEM + "/state/{requester}", worklist.change_state, "UPS-RS", "11.7"),
    Row("POST", WORKITEM + "/cancelrequest", worklist.request_cancel, "UPS-RS", "11.8"),
    Row("POST", WORKITEM + "/cancelrequest/{requester}", worklist.request_cancel, "UPS-RS", "11.8"),
)
# fmt: on
