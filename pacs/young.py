"""Series that this process has begun: what of them has come through it, so that nobody need look for what has not.

It saves the look-up before an instance's bytes are stored, and decides nothing: the transaction that files the instance
looks again, and whoever was wrong gives the bytes back.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress

SERIES, INSTANCES = 16, 2048
"""So many series are remembered, each up to so many instances."""


class Series:
    """The young series of one process. Safe from any thread."""

    def __init__(self) -> None:
        self._series: OrderedDict[str, set[int]] = OrderedDict()

    def begun(self, series_instance_uid: str) -> None:
        """Told of a series that was not there before."""
        self._series[series_instance_uid] = set()
        if len(self._series) > SERIES:
            with suppress(KeyError):
                self._series.popitem(last=False)

    def came(self, series_instance_uid: str, sop_instance_uid: str) -> None:
        """Told of each instance that is there now."""
        there = self._series.get(series_instance_uid)
        if there is not None:
            there.add(hash(sop_instance_uid))
            if len(there) > INSTANCES:
                self.forget(series_instance_uid)

    def forget(self, series_instance_uid: str) -> None:
        """Told when others were found to store there, too."""
        self._series.pop(series_instance_uid, None)

    def lacks(self, series_instance_uid: str, sop_instance_uid: str) -> bool:
        """Whether the instance is of such a series and has not come."""
        there = self._series.get(series_instance_uid)
        return there is not None and hash(sop_instance_uid) not in there
