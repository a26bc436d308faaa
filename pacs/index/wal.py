"""How a SQLite index is opened by who writes to it: with its log written a transaction at a time, where that can be.

SQLite writes each page of a transaction by two calls of the system; `pacs/native/log.c` makes one of all. What the file
holds is the same. Where the compiled part is missing, or SQLite is inside of Python and cannot be asked, it is opened
as everybody does.
"""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

from pacs import native

NAME = "m3dicom"
"""Of the VFS, as SQLite calls what lies between it and the system."""


def functions(names: Sequence[str]) -> list[int] | None:
    """The addresses of functions of the SQLite that Python uses, or None where they cannot be found."""
    try:
        import _sqlite3

        used = ctypes.CDLL(_sqlite3.__file__)  # its dependencies are looked through as well
        return [ctypes.cast(getattr(used, name), ctypes.c_void_p).value or 0 for name in names]
    except (ImportError, OSError, AttributeError):
        return None


@cache
def available() -> bool:
    """Whether the log can be written a transaction at a time; makes it so for this process."""
    library = native.load()
    found = functions(("sqlite3_vfs_find", "sqlite3_vfs_register"))
    return library is not None and found is not None and not library.m3_log_register(*found)


def connect(path: str) -> sqlite3.Connection:
    """A connection to the database, for any thread. Raises sqlite3.Error."""
    if not available():
        return sqlite3.connect(path, check_same_thread=False)
    address = f"file:{quote(str(Path(path).absolute()))}?vfs={NAME}"
    connection = sqlite3.connect(address, uri=True, check_same_thread=False)
    connection.execute("PRAGMA cache_spill=OFF").close()  # without it no transaction could be larger than the cache
    return connection
