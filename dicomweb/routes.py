"""Every resource and method of the DICOMweb service: TABLE, read by the application and by documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dicomweb import (
    bulkdata,
    changes,
    commitment,
    frames,
    notifications,
    qido,
    removal,
    rendered,
    stow,
    subscriptions,
    wado,
    wado_uri,
    worklist,
)
from dicomweb.answers import Answer
from dicomweb.calls import Call
from dicomweb.parameters import COMMON, RENDERED, SEARCH, THUMBNAIL, URI
from dicomweb.websocket import Door
from pacs.auth import Right

Handler = Callable[[Call], Awaitable[Answer]]

STUDY = "/studies/{study}"
SERIES = "/studies/{study}/series/{series}"
INSTANCE = "/studies/{study}/series/{series}/instances/{instance}"
WORKITEM = "/workitems/{workitem}"
COMMITMENT = "/commitment-requests/{transaction}"
SUBSCRIBER = WORKITEM + "/subscribers/{aetitle}"

EXTENSION = "extension"
"""The section of what is no part of PS3.18."""

_TEXT = ("application/dicom+json", "application/dicom+xml")
_FOUND = (*_TEXT, "multipart/related; type=application/dicom+xml")
_OBJECTS = ("multipart/related; type=application/dicom", "application/dicom")
_VALUES = ("application/octet-stream", "multipart/related; type=application/octet-stream")
_PICTURES = ("image/jpeg", "image/png", "image/gif", "image/jp2")
_THUMBNAIL = _PICTURES[:3]
_FRAMES = (*_PICTURES, "multipart/related; type=image/*")
_RENDERED = (
    *_FRAMES, "text/html", "text/plain", "text/xml", "application/pdf", "video/mp4", "video/mpeg", "video/H265",
    "model/x3d+xml", "model/gltf-binary", "model/stl", "model/obj", "model/mtl",
)  # fmt: skip
_STORED = (
    "multipart/related; type=application/dicom", "multipart/related; type=application/dicom+json",
    "multipart/related; type=application/dicom+xml", "application/dicom", *_TEXT,
)  # fmt: skip
_WORKITEM = ("application/dicom+json", "application/dicom+xml")


@dataclass(frozen=True, slots=True)
class Row:
    """One method of one resource, and all that others may know of it.

    `path` is below the root of the service. `service` is the one of PS3.18 and `transaction` its name there, `section`
    the one that rules it. `media_types` are what it answers in, `payloads` what it takes; the default goes first, and
    none means no body. `parameters` are names of `dicomweb.parameters.TABLE`; who asks needs `right`.
    """

    method: str
    path: str
    handler: Handler
    service: str
    section: str
    transaction: str
    right: Right
    media_types: tuple[str, ...] = ()
    payloads: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    upgrade: bool = False  # to a WebSocket


@dataclass(frozen=True, slots=True)
class Socket:
    """One address at which a WebSocket can be opened, and what it brings. Its other fields are those of `Row`."""

    path: str
    door: type[Door]
    service: str
    section: str
    transaction: str
    parameters: tuple[str, ...] = ()
    right: Right = Right.QUERY
    method: str = "GET"
    media_types: tuple[str, ...] = ()
    payloads: tuple[str, ...] = ()
    upgrade: bool = True


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A service of PS3.18 that is not here, and why; its resources answer 404."""

    service: str
    section: str
    resources: tuple[str, ...]
    why: str


_READ, _QUERY, _STORE, _DELETE, _PROCESS = Right.READ, Right.QUERY, Right.STORE, Right.DELETE, Right.PROCESS


def _retrieve(
    path: str, handler: Handler, section: str, what: str, types: tuple[str, ...], parameters: tuple[str, ...] = COMMON
) -> Row:
    return Row("GET", path, handler, "WADO-RS", section, f"Retrieve {what}", _READ, types, (), parameters)


def _search(path: str, handler: Handler, what: str) -> Row:
    return Row("GET", path, handler, "QIDO-RS", "10.6", f"Search for {what}", _QUERY, _FOUND, (), SEARCH)


def _store(path: str, what: str) -> Row:
    return Row("POST", path, stow.store, "STOW-RS", "10.5", f"Store {what}", _STORE, _TEXT, _STORED, COMMON)


def _delete(path: str, what: str) -> Row:
    return Row("DELETE", path, removal.delete, "Removal", EXTENSION, f"Delete {what}", _DELETE)


def _ups(
    method: str, path: str, handler: Handler, section: str, what: str, *, types: tuple[str, ...] = (),
    payloads: tuple[str, ...] = (), parameters: tuple[str, ...] = COMMON, right: Right = _PROCESS,
) -> Row:  # fmt: skip
    return Row(method, path, handler, "UPS-RS", section, what, right, types, payloads, parameters)


# fmt: off
TABLE: tuple[Row, ...] = (
    _retrieve(INSTANCE + "/frames/{frames}", frames.retrieve, "10.4.1.1.6", "Frame Pixel Data", (
        "multipart/related; type=application/octet-stream", "multipart/related; type=image/*",
        "application/octet-stream", "image/*")),
    _search("/studies", qido.studies, "Studies"),
    _store("/studies", "Instances"),
    _search(STUDY + "/series", qido.series, "Study's Series"),
    _search(STUDY + "/instances", qido.instances, "Study's Instances"),
    _search(SERIES + "/instances", qido.instances, "Study's Series' Instances"),
    _search("/series", qido.series, "All Series"),
    _search("/instances", qido.instances, "All Instances"),
    _retrieve(STUDY + "/metadata", wado.metadata, "10.4.1.1.2", "Study Metadata", _FOUND),
    _retrieve(SERIES + "/metadata", wado.metadata, "10.4.1.1.2", "Series Metadata", _FOUND),
    _retrieve(INSTANCE + "/metadata", wado.metadata, "10.4.1.1.2", "Instance Metadata", _FOUND),
    _retrieve(INSTANCE, wado.objects, "10.4.1.1.1", "Instance", _OBJECTS),
    _delete(INSTANCE, "Instance"),
    _retrieve(SERIES, wado.objects, "10.4.1.1.1", "Series", _OBJECTS[:1]),
    _delete(SERIES, "Series"),
    _retrieve(STUDY, wado.objects, "10.4.1.1.1", "Study", _OBJECTS[:1]),
    _store(STUDY, "Study's Instances"),
    _delete(STUDY, "Study"),
    _retrieve(INSTANCE + "/bulkdata/{path:path}", bulkdata.value, "10.4.1.1.5", "Bulkdata", _VALUES),
    _retrieve(INSTANCE + "/bulkdata", bulkdata.values, "10.4.1.1.5", "Instance Bulkdata", _VALUES[1:]),
    _retrieve(SERIES + "/bulkdata", bulkdata.values, "10.4.1.1.5", "Series Bulkdata", _VALUES[1:]),
    _retrieve(STUDY + "/bulkdata", bulkdata.values, "10.4.1.1.5", "Study Bulkdata", _VALUES[1:]),
    _retrieve(INSTANCE + "/pixeldata", bulkdata.pixel_data, "10.4.1.1.6", "Instance Pixel Data", _VALUES[1:]),
    _retrieve(SERIES + "/pixeldata", bulkdata.pixel_data, "10.4.1.1.6", "Series Pixel Data", _VALUES[1:]),
    _retrieve(STUDY + "/pixeldata", bulkdata.pixel_data, "10.4.1.1.6", "Study Pixel Data", _VALUES[1:]),
    _retrieve(INSTANCE + "/frames/{frames}/rendered", rendered.frame, "10.4.1.1.3", "Rendered Frames", _FRAMES,
        RENDERED),
    _retrieve(INSTANCE + "/rendered", rendered.instances, "10.4.1.1.3", "Rendered Instance", _RENDERED, RENDERED),
    _retrieve(SERIES + "/rendered", rendered.instances, "10.4.1.1.3", "Rendered Series", _RENDERED, RENDERED),
    _retrieve(STUDY + "/rendered", rendered.instances, "10.4.1.1.3", "Rendered Study", _RENDERED, RENDERED),
    _retrieve(INSTANCE + "/frames/{frames}/thumbnail", rendered.thumbnail, "10.4.1.1.4", "Frame Thumbnail", _THUMBNAIL,
        THUMBNAIL),
    _retrieve(INSTANCE + "/thumbnail", rendered.thumbnail, "10.4.1.1.4", "Instance Thumbnail", _THUMBNAIL, THUMBNAIL),
    _retrieve(SERIES + "/thumbnail", rendered.thumbnail, "10.4.1.1.4", "Series Thumbnail", _THUMBNAIL, THUMBNAIL),
    _retrieve(STUDY + "/thumbnail", rendered.thumbnail, "10.4.1.1.4", "Study Thumbnail", _THUMBNAIL, THUMBNAIL),
    Row("GET", "/wado", wado_uri.retrieve, "WADO-URI", "9.4", "Retrieve Instance", _READ,
        (*_PICTURES, "application/dicom"), (), URI),
    _ups("GET", "/workitems", worklist.search, "11.9", "Search", types=_FOUND, parameters=SEARCH, right=_QUERY),
    _ups("POST", "/workitems", worklist.create, "11.4", "Create", payloads=_WORKITEM,
        parameters=("{workitem}", *COMMON)),
    _ups("GET", WORKITEM, worklist.retrieve, "11.5", "Retrieve", types=_TEXT, right=_QUERY),
    _ups("PUT", WORKITEM, worklist.update, "11.6", "Update", payloads=_WORKITEM,
        parameters=("transaction-uid", *COMMON)),
    _ups("POST", WORKITEM, worklist.update, "11.6", "Update", payloads=_WORKITEM,
        parameters=("transaction-uid", *COMMON)),
    _ups("PUT", WORKITEM + "/state", worklist.change_state, "11.7", "Change State", payloads=_WORKITEM),
    _ups("PUT", WORKITEM + "/state/{requester}", worklist.change_state, "11.7", "Change State", payloads=_WORKITEM),
    _ups("POST", WORKITEM + "/cancelrequest", worklist.request_cancel, "11.8", "Request Cancellation",
        payloads=_WORKITEM),
    _ups("POST", WORKITEM + "/cancelrequest/{requester}", worklist.request_cancel, "11.8", "Request Cancellation",
        payloads=_WORKITEM),
    _ups("POST", SUBSCRIBER, subscriptions.subscribe, "11.10", "Subscribe", right=_QUERY,
        parameters=("deletionlock", "filter", "{attribute}", *COMMON)),
    _ups("DELETE", SUBSCRIBER, subscriptions.unsubscribe, "11.11", "Unsubscribe", right=_QUERY),
    _ups("POST", SUBSCRIBER + "/suspend", subscriptions.suspend, "11.12", "Suspend Global Subscription",
        right=_QUERY),
    Row("POST", COMMITMENT, commitment.request, "Storage Commitment", "13.4", "Request", _STORE, _FOUND, _WORKITEM,
        COMMON),
    Row("GET", COMMITMENT, commitment.check, "Storage Commitment", "13.5", "Result Check", _STORE, _FOUND, (), COMMON),
    Row("GET", "/changes", changes.retrieve, "Changes", EXTENSION, "Retrieve Changes", _QUERY, ("application/json",),
        (), ("since", "limit", "wait", "accept")),
)

SOCKETS: tuple[Socket, ...] = (
    Socket("/", notifications.Notifications, "UPS-RS", "8.10.4", "Open Notification Connection"),
    Socket("/subscribers/{aetitle}", notifications.Notifications, "UPS-RS", "8.10.4",
        "Open Notification Connection of one AE"),
    Socket("/ws/subscribers/{aetitle}", notifications.Notifications, "UPS-RS", "8.10.4",
        "Open Notification Connection of one AE"),
    Socket("/changes", changes.ChangeFeed, "Changes", EXTENSION, "Follow Changes", ("since",)),
)

UNSUPPORTED: tuple[Unsupported, ...] = (
    Unsupported("Non-Patient Instance", "12", ("/{npi-name}",), "color palettes, hanging protocols and the like are "
        "not kept beside the studies"),
    Unsupported("Modality Scheduled Procedure Step", "14", ("/modality-scheduled-procedure-steps",),
        "the modality worklist is the RIS's; this archive schedules Workitems only"),
    Unsupported("Modality Performed Procedure Step", "15", ("/modality-performed-procedure-steps/{mpps}",),
        "the RIS hears of performed steps from the modalities"),
)
# fmt: on
