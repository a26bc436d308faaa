"""The connection to a SQLite index by which C alone writes instances that join their series (`pacs/native/join.c`).

It has no part of Python's: a whole instance is received, stored and written while other threads have the interpreter.
What it writes is redoable (see `pacs.index.writer`): a commit does not wait for the disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from ctypes import byref, c_uint64, c_void_p
from pathlib import Path
from typing import Final

from pacs import native
from pacs.index import joining, wal
from pacs.index.turn import Turn

log = logging.getLogger(__name__)

_FUNCTIONS: Final = tuple(
    f"sqlite3_{name}"
    for name in (
        "open_v2", "close", "exec", "prepare_v2", "finalize", "step", "reset", "bind_parameter_count",
        "bind_null", "bind_int64", "bind_double", "bind_text", "bind_blob",
        "column_count", "column_type", "column_int64", "column_double", "column_blob", "column_bytes", "get_autocommit",
    )
)  # fmt: skip
"""In the order of `struct sqlite` of join.c."""

_LOOKUP, LOOKUP = joining.STILL_HERE.for_sqlite()
"""The look-up, and the names of its parameters (`lookup` of m3_joining) in their order."""
COLUMNS: Final = joining.COLUMNS
"""The names of the parameters of the insert (`columns` of m3_joining) in their order."""


class Joiner:
    """What m3_join writes by; safe from any thread."""

    def __init__(self, address: int) -> None:
        self.address: Final = address
        """Of the joiner of C. It stays one when this is closed: what comes then is `M3_UNUSUAL`."""

    def close(self) -> None:
        """Return when the instances under way have been written; refuse others."""
        library = native.load()
        if library is not None:
            library.m3_joiner_close(self.address)


def opened(database: Path, turn: Turn, pragmas: Sequence[str]) -> Joiner | None:
    """The joiner of a database that is there, or None where the compiled part or SQLite's functions cannot be had.

    `turn` is what all who write in this process take. With None, everything is written as it is without.
    """
    library, found = native.load(), wal.functions(_FUNCTIONS)
    if library is None or found is None or not turn.address or not wal.available():
        return None
    setup = ";".join((*(f"PRAGMA {pragma}" for pragma in pragmas), "PRAGMA synchronous=NORMAL", *joining.SETUP))
    made = c_uint64()
    failure = library.m3_joiner_open(
        (c_void_p * len(found))(*found), os.fsencode(database.absolute()), wal.NAME.encode(), setup.encode(),
        _LOOKUP.encode(), joining.JOIN.encode(), turn.address, byref(made),
    )  # fmt: skip
    if failure:
        log.warning("instances are written to the index by Python alone: SQLite's error %d", failure)
        return None
    return Joiner(made.value)
