"""What became of each instance of a store request, and the module that tells it (PS3.18 10.5.3 and Annex I)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicomweb import errors
from pacs.errors import ArchiveError, Conflict, OutOfResources, Quarantined, Unavailable

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.ingest import Prepared, Receiving, Stored

SAME_HEADER = "X-M3DICOM-Same"
"""Header of ours: how many of the stored instances were here already. They are stored like the rest, and no Warning
Reason (PS3.4 B.2.3) is for that, so the module says nothing of it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An instance, or a part that never became one, that is not stored. The UIDs are empty where unknown."""

    sop_class_uid: str
    sop_instance_uid: str
    error: ArchiveError


def failure(receiving: Receiving | None, error: ArchiveError) -> Failure:
    """The entry for what arrived and could not be stored."""
    if receiving is None:
        return Failure("", "", error)
    known = receiving if receiving.header is None else receiving.header
    return Failure(known.sop_class_uid or "", known.sop_instance_uid or "", error)


def file(archive: Archive, done: Sequence[Prepared | Failure]) -> list[Stored | Failure]:
    """Make the prepared instances visible, all in one transaction; where one is refused, each in its own."""
    prepared = [each for each in done if not isinstance(each, Failure)]
    try:
        stored: Iterator[Stored | Failure] = map(_honest, archive.ingest.file(prepared) if prepared else ())
    except ArchiveError:
        stored = (_file_one(archive, each) for each in prepared)
    return [each if isinstance(each, Failure) else next(stored) for each in done]


def _file_one(archive: Archive, prepared: Prepared) -> Stored | Failure:
    try:
        return _honest(archive.ingest.file([prepared])[0])
    except ArchiveError as error:
        if isinstance(error, Conflict) and prepared.placed is not None:
            prepared.placed.withdraw()
        return Failure(prepared.sop_class_uid, prepared.sop_instance_uid, error)


def _honest(stored: Stored) -> Stored | Failure:
    """A quarantined instance is a failure: it cannot be retrieved, so whoever sent it must not believe it is stored."""
    if stored.outcome != "quarantined":
        return stored
    return Failure(stored.sop_class_uid, stored.sop_instance_uid, Quarantined(stored.sop_instance_uid))


def status_of(results: Sequence[Stored | Failure]) -> int:
    """The status of the whole (PS3.18 Table 10.5.3-1); 503 and 507 only where nothing else went wrong."""
    failures = [each for each in results if isinstance(each, Failure)]
    if not failures:
        return 200
    if len(failures) < len(results):
        return 202
    if all(isinstance(each.error, OutOfResources) for each in failures):
        return 507
    if all(isinstance(each.error, Unavailable) for each in failures):
        return 503
    return 409 if any(each.sop_instance_uid for each in failures) else 400


def same_of(results: Sequence[Stored | Failure]) -> int:
    """How many of the stored instances were here already, byte for byte."""
    return sum(not isinstance(each, Failure) and each.outcome == "same" for each in results)


def location(results: Sequence[Stored | Failure], root: str) -> str:
    """The URL of what was made, for the Location header (PS3.18 Table 10.5.3-2): the instance, or the one study of all.

    Empty where nothing is stored, or in several studies, which have no address together.
    """
    stored = [each for each in results if not isinstance(each, Failure)]
    studies = {each.study_instance_uid for each in stored}
    if len(studies) != 1:
        return ""
    study = f"{root}/studies/{studies.pop()}"
    if len(stored) > 1:
        return study
    return f"{study}/series/{stored[0].series_instance_uid}/instances/{stored[0].sop_instance_uid}"


def response_module(results: Sequence[Stored | Failure], root: str) -> dict[str, Any]:
    """The Store Instances Response Module (PS3.18 Annex I.2) as DICOM JSON; `root` is the URL of the service."""
    stored, failed, others, studies = [], [], [], set()
    for each in results:
        if not isinstance(each, Failure):
            study = f"{root}/studies/{each.study_instance_uid}"
            studies.add(study)
            url = f"{study}/series/{each.series_instance_uid}/instances/{each.sop_instance_uid}"
            stored.append(_references(each.sop_class_uid, each.sop_instance_uid) | {"00081190": _element("UR", url)})
            continue
        reason = {"00081197": _element("US", errors.failure_reason(each.error))}
        if each.sop_instance_uid:
            failed.append(_references(each.sop_class_uid, each.sop_instance_uid) | reason)
        else:
            others.append(reason)
    # Retrieve URL is of type 2: there, but empty where no one study holds it all
    module: dict[str, Any] = {"00081190": _element("UR", studies.pop() if len(studies) == 1 else "")}
    for tag, items in (("0008119A", others), ("00081198", failed), ("00081199", stored)):
        if items:
            module[tag] = {"vr": "SQ", "Value": items}
    return dict(sorted(module.items()))


def _references(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {"00081150": _element("UI", sop_class_uid), "00081155": _element("UI", sop_instance_uid)}


def _element(vr: str, value: str | int) -> dict[str, Any]:
    return {"vr": vr} if value == "" else {"vr": vr, "Value": [value]}
