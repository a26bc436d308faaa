"""Owns what a task was given, as what its plug-in hands out is held against it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pydicom import Dataset

from analysis.api import BrokenContract, Volume
from analysis.results.contract_terms import array, lengths

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")


class Inputs:
    """The instances that a task was given, the first of them of the study that the task is about."""

    def __init__(self, sources: Sequence[Dataset]) -> None:
        self._known = {str(ds.SOPInstanceUID): ds for ds in sources}
        self._study = str(sources[0].get("StudyInstanceUID")) if sources else ""

    def of_this_study(self, sop_instance_uid: str, what: str) -> Dataset:
        """The input of that UID. Raises BrokenContract where it is none, or one of another study, as a prior is."""
        found = self._known.get(sop_instance_uid)
        if found is None:
            raise BrokenContract(f"{what} name an instance that the task was not given.")
        if str(found.get("StudyInstanceUID")) != self._study:
            raise BrokenContract(f"{what} are of another study than the task: results lie in that of its first input.")
        return found

    def volume(self, value: Volume, what: str) -> Dataset:
        """The input that is the first slice of a volume. Raises BrokenContract where the volume is none of the task."""
        slices = value.sop_instance_uids
        if not slices:
            raise BrokenContract(f"{what} are of a volume without slices.")
        for uid, times in Counter(slices).items():
            if times > int(self.of_this_study(uid, what).get("NumberOfFrames") or 1):
                raise BrokenContract(f"{what} are of a volume that has a slice twice.")
        array(value.positions, "The positions of a volume", (len(slices), 3), "fiu")
        lengths(value.spacing, "the spacing of a volume")
        first = self._known[slices[0]]
        if not first.get("FrameOfReferenceUID") and not _UID.fullmatch(value.frame_of_reference_uid):
            raise BrokenContract(f"{what} are of a volume without a frame of reference.")
        return first
