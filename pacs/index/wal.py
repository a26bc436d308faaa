"""How a SQLite index is opened by who writes to it: with its log written a transaction at a time, where that can be.

SQLite writes each page of a transaction by two calls of the system; `pacs/native/log.c` makes one of all. What the file
holds is the same. Where the compiled part is missing, or SQLite is inside of Python and cannot be asked, it is opened
as everybody does.
"""

from __future__ import annotations

import ctypes
import sqlite3
from functools import cache
from pathlib import Path
from urllib.parse import quote

from pacs import native

NAME = "m3dicom"
"""Of the VFS, as SQLite calls what lies between it and the system."""


@cache
def available() -> bool:
    """Whether the log can be written a transaction at a time; makes it so for this process."""
    library = native.load()
    if library is None:
        return False
    try:
        import _sqlite3

        # Its dependencies are looked through as well: it is the very SQLite that Python uses
        used = ctypes.CDLL(_sqlite3.__file__)
        find, add = (ctypes.cast(each, ctypes.c_void_p) for each in (used.sqlite3_vfs_find, used.sqlite3_vfs_register))
    except (ImportError, OSError, AttributeError):
        return False
    return not library.m3_log_register(find, add)


def connect(path: str) -> sqlite3.Connection:
    """A connection to the database, for any thread. Raises sqlite3.Error."""
    if not available():
        return sqlite3.connect(path, check_same_thread=False)
    address = f"file:{quote(str(Path(path).absolute()))}?vfs={NAME}"
    connection = sqlite3.connect(address, uri=True, check_same_thread=False)
    connection.execute("PRAGMA cache_spill=OFF").close()  # without it no transaction could be larger than the cache
    return connection
