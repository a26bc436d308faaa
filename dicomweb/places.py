"""Which instances an address names, for one who may read them, and the address of an instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomweb.calls import SEEN, Call
from pacs.auth import Right
from pacs.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, TransferSyntax

if TYPE_CHECKING:
    from pacs.retrieve import Edition, InstanceLocation


def locate(call: Call) -> list[InstanceLocation]:
    """The instances that the path names, for one who may read. Blocks. Raises NotFound."""
    principal = call.principal(Right.READ)
    study = call.uid("study")
    series = call.uid("series") if "series" in call.params else None
    instance = call.uid("instance") if "instance" in call.params else None
    version = call.scope.get("state", {}).get(SEEN)
    if instance is None or version is None:
        return call.archive.retrieve.locate(principal, study, series, instance)
    # One instance is asked for frame by frame: where it lies stays true for as long as the index does not change.
    key = (principal.scope, study, series, instance)
    known = call.web.located.get(key, version)
    if known is None:
        known = call.archive.retrieve.locate(principal, study, series, instance)
        call.web.located.put(key, version, known, sum(map(_held_bytes, known)))
    else:
        call.archive.accesses.note(principal, study)
    return known


def _held_bytes(location: InstanceLocation) -> int:
    """What a location takes in memory, about; most of it are the lengths and places of fragments."""
    frames = location.frames
    fragments = 0 if frames is None or frames.fragment_lengths is None else len(frames.fragment_lengths)
    return 2000 + 300 * len(location.bulk) + 24 * fragments


def address(root: str, location: InstanceLocation | Edition) -> str:
    """The URL of an instance."""
    return (
        f"{root}/studies/{location.study_instance_uid}/series/{location.series_instance_uid}"
        f"/instances/{location.sop_instance_uid}"
    )


def syntax_of(location: InstanceLocation) -> TransferSyntax:
    """The table row of what an instance is stored in."""
    return TRANSFER_SYNTAXES[location.transfer_syntax_uid]
