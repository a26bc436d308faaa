"""Which instances an address names, for one who may read them, and the address of an instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomweb.calls import Call
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
    return call.archive.retrieve.locate(principal, study, series, instance)


def address(root: str, location: InstanceLocation | Edition) -> str:
    """The URL of an instance."""
    return (
        f"{root}/studies/{location.study_instance_uid}/series/{location.series_instance_uid}"
        f"/instances/{location.sop_instance_uid}"
    )


def syntax_of(location: InstanceLocation) -> TransferSyntax:
    """The table row of what an instance is stored in."""
    return TRANSFER_SYNTAXES[location.transfer_syntax_uid]
