"""What changes with each commit to a SQLite index, read without a call of the system.

In WAL mode the processes that have a database open share memory, and each commit, of whichever of them, replaces the
header of the log's index there before it returns (sqlite.org/walformat.html 2.1). Who finds it as it was knows that
nobody has committed since. That costs a copy of 96 bytes, where asking SQLite takes locks on files.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Array, byref, c_char, c_char_p, c_int, c_void_p
from pathlib import Path
from typing import Final

from pacs.index import wal

_FUNCTIONS: Final = ("sqlite3_open_v2", "sqlite3_close", "sqlite3_exec", "sqlite3_file_control")
_OPEN = CFUNCTYPE(c_int, c_char_p, POINTER(c_void_p), c_int, c_char_p)
_CLOSE = CFUNCTYPE(c_int, c_void_p)
_EXEC = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_void_p, c_void_p)
_CONTROL = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int, c_void_p)
_MAP = CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int, POINTER(c_void_p))

_OPEN_READWRITE, _OPEN_FULLMUTEX = 0x2, 0x10000
_FILE_POINTER = 7  # SQLITE_FCNTL_FILE_POINTER
_MAP_AT = 13 * ctypes.sizeof(c_void_p)  # of xShmMap in sqlite3_io_methods: behind the version and twelve others
_REGION_BYTES = 32 << 10  # WALINDEX_PGSZ

_COPIES_BYTES = 2 * 48
"""The header is there twice: who writes replaces the second copy first, so that none is ever seen half."""


class Pulse:
    """The header of one index, for as long as this is open. Safe from any thread."""

    def __init__(self, connection: int, close: Callable[[int], int], at: int) -> None:
        """`connection` is one of SQLite's, which keeps the memory at `at` where it is."""
        self._connection: int | None = connection
        self._close = close
        self._lock = threading.Lock()
        self._header: Array[c_char] | None = (c_char * _COPIES_BYTES).from_address(at)

    def beat(self) -> bytes | None:
        """What stays the same for as long as nobody commits; None once this is closed."""
        with self._lock:
            return None if self._header is None else self._header.raw

    def close(self) -> None:
        """Let go of the memory."""
        with self._lock:
            connection, self._connection, self._header = self._connection, None, None
        if connection is not None:
            self._close(connection)


def opened(database: Path) -> Pulse | None:
    """The pulse of a database in WAL mode that is there; None where SQLite's functions or the memory cannot be had."""
    found = wal.functions(_FUNCTIONS)
    if found is None:
        return None
    opening, closing = _OPEN(found[0]), _CLOSE(found[1])
    connection = c_void_p()
    failure = opening(bytes(database.absolute()), byref(connection), _OPEN_READWRITE | _OPEN_FULLMUTEX, None)
    at = None if failure else _mapped(_EXEC(found[2]), _CONTROL(found[3]), connection)
    if at is None or connection.value is None:
        closing(connection)
        return None
    return Pulse(connection.value, closing, at)


def _mapped(execute: Callable[..., int], control: Callable[..., int], connection: c_void_p) -> int | None:
    """Where the header is, once the connection has read from the log."""
    if execute(connection, b"PRAGMA query_only=ON; SELECT count(*) FROM sqlite_schema", None, None, None):
        return None
    file = c_void_p()
    if control(connection, b"main", _FILE_POINTER, byref(file)) or not file.value:
        return None
    methods = c_void_p.from_address(file.value).value
    if not methods or c_int.from_address(methods).value < 2:
        return None
    mapping = c_void_p.from_address(methods + _MAP_AT).value
    at = c_void_p()
    if not mapping or _MAP(mapping)(file, 0, _REGION_BYTES, 0, byref(at)):
        return None
    return at.value
