"""The hot path in C: one shared library without a line of CPython's, used where it was built.

Everything in it has a reference in Python that does the same (docs/adr/0005-hot-path-in-c.md). Calls release the
interpreter lock. `pacs.native.make` builds it.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

from pacs.native.make import library

ABI = 5
DONE, MORE, ODD, CLOSED, STALLED, FAILED = range(6)


class Wire(ctypes.Structure):
    """`struct m3_wire` of native.h."""

    _fields_ = (
        ("buffer", c_void_p),
        ("deadline", c_double),
        ("waited", c_double),
        ("received", ctypes.c_uint64),
        ("filled", ctypes.c_uint64),
        ("fd", ctypes.c_int32),
        ("size", c_uint32),
        ("start", c_uint32),
        ("end", c_uint32),
        ("max_pdu", c_uint32),
        ("pdu_left", c_uint32),
        ("piece_left", c_uint32),
        ("context", c_uint32),
        ("last", c_uint32),
    )


class Patience(ctypes.Structure):
    """`struct m3_patience` of native.h."""

    _fields_ = (("silence", c_double), ("pdu", c_double), ("window", c_double), ("rate", c_double))


class Awake(ctypes.Structure):
    """`struct m3_awake` of awake.c."""

    _fields_ = (
        ("until", c_double),
        ("rested", c_double),
        ("asleep", c_uint32),
        ("ended", c_uint32),
        ("given_up", c_uint32),
        ("processors", c_uint32),
    )


class Hash(ctypes.Structure):
    """`struct m3_hash` of native.h: BLAKE3 of what was fed so far."""

    _fields_ = (
        ("chunks", c_uint64),
        ("held", c_uint32),
        ("lanes", c_uint32),
        ("waiting", c_uint32),
        ("depth", c_uint32),
        ("stack", c_uint8 * (47 * 32)),
        ("leaves", c_uint8 * (128 * 32)),
        ("rest", c_uint8 * 8192),
    )


@cache
def load() -> Any | None:
    """The library, or None where it was not built from these sources or cannot be loaded."""
    path = library()
    if path is None:
        return None
    try:
        found = ctypes.CDLL(str(path))
        found.m3_abi.restype = c_uint32
        if found.m3_abi() != ABI:
            return None
    except (OSError, AttributeError):
        return None
    found.m3_awake_run.argtypes, found.m3_awake_run.restype = (POINTER(Awake),), c_int
    found.m3_awake_rouse.argtypes, found.m3_awake_rouse.restype = (POINTER(Awake),), None
    wire = (POINTER(Wire), POINTER(Patience))
    found.m3_command.argtypes = (*wire, c_double, c_void_p, c_size_t)
    found.m3_dataset.argtypes = (*wire, c_uint32, c_void_p, c_size_t)
    for name in ("m3_command", "m3_dataset"):
        getattr(found, name).restype = c_int
    found.m3_pack.argtypes, found.m3_pack.restype = (c_char_p, c_size_t, c_void_p, c_size_t), c_size_t
    found.m3_write_open.argtypes, found.m3_write_open.restype = (POINTER(c_uint64),), c_int
    found.m3_write_begin.argtypes = (c_uint64, c_int, c_void_p, c_size_t, c_int64)
    found.m3_write_begin.restype = c_int
    found.m3_log_register.argtypes, found.m3_log_register.restype = (c_void_p, c_void_p), c_int
    found.m3_write_end.argtypes, found.m3_write_end.restype = (c_uint64,), c_int64
    found.m3_hash_begin.argtypes, found.m3_hash_begin.restype = (POINTER(Hash),), None
    found.m3_hash_feed.argtypes, found.m3_hash_feed.restype = (POINTER(Hash), c_void_p, c_size_t), None
    found.m3_hash_end.argtypes, found.m3_hash_end.restype = (POINTER(Hash), c_void_p), None
    found.m3_hash_copy.argtypes = (POINTER(Hash), c_void_p, c_void_p, c_size_t)
    found.m3_hash_copy.restype = None
    found.m3_find.argtypes, found.m3_find.restype = (c_void_p, c_size_t, c_char_p, c_size_t), c_int64
    found.m3_turn_open.argtypes, found.m3_turn_open.restype = (c_int, POINTER(c_uint64)), c_int
    found.m3_turn_take.argtypes, found.m3_turn_take.restype = (c_uint64, c_int), c_int
    found.m3_turn_give.argtypes = found.m3_turn_close.argtypes = (c_uint64,)
    found.m3_turn_give.restype = found.m3_turn_close.restype = None
    texts = (c_char_p,) * 5
    found.m3_joiner_open.argtypes = (POINTER(c_void_p), *texts, c_uint64, POINTER(c_uint64))
    found.m3_joiner_open.restype = c_int
    found.m3_joiner_close.argtypes, found.m3_joiner_close.restype = (c_uint64,), None
    found.m3_join.argtypes, found.m3_join.restype = (c_uint64, c_void_p), c_int
    return found


def state() -> str:
    """What does the work here, in words for a person."""
    return "compiled" if load() is not None else "Python (the compiled part was not built; `make install` builds it)"
