"""Series to which this process sees only new instances come, so that nobody need look for each of them beforehand.

It saves the look-up before an instance's bytes are stored, and decides nothing: the transaction that files the instance
looks again, and whoever was wrong gives the bytes back.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress

SERIES, INSTANCES = 16, 2048
"""So many series are remembered, each up to so many instances."""

IN_VAIN = 8
"""After so many look-ups in a row that found nothing of a series that others began, it counts as one of ours."""


class Series:
    """The young series of one process. Safe from any thread."""

    def __init__(self) -> None:
        self._series: OrderedDict[str, set[int]] = OrderedDict()
        self._in_vain: OrderedDict[str, int] = OrderedDict()

    def begun(self, series_instance_uid: str) -> None:
        """Told of a series that was not there before."""
        self._series[series_instance_uid] = set()
        if len(self._series) > SERIES:
            with suppress(KeyError):
                self._series.popitem(last=False)

    def absent(self, series_instance_uid: str) -> None:
        """Told of a look-up that found nothing under the UID of an instance of this series."""
        count = self._in_vain.pop(series_instance_uid, 0) + 1
        if count >= IN_VAIN:
            self.begun(series_instance_uid)
            return
        self._in_vain[series_instance_uid] = count
        if len(self._in_vain) > SERIES:
            with suppress(KeyError):
                self._in_vain.popitem(last=False)

    def came(self, series_instance_uid: str, sop_instance_uid: str) -> None:
        """Told of each instance that is there now."""
        there = self._series.get(series_instance_uid)
        if there is not None:
            there.add(hash(sop_instance_uid))
            if len(there) > INSTANCES:
                self.forget(series_instance_uid)

    def forget(self, series_instance_uid: str) -> None:
        """Told when something was found to be there already: others store there, or it is sent again."""
        self._series.pop(series_instance_uid, None)
        self._in_vain.pop(series_instance_uid, None)

    def lacks(self, series_instance_uid: str, sop_instance_uid: str) -> bool:
        """Whether the instance is of such a series and has not come."""
        there = self._series.get(series_instance_uid)
        return there is not None and hash(sop_instance_uid) not in there
