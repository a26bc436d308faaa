"""The structures of native.h for an association whose instances are stored by the library alone (`pacs.express`)."""

from __future__ import annotations

from ctypes import (
    POINTER,
    Structure,
    Union,
    c_char,
    c_double,
    c_int32,
    c_int64,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)  # fmt: skip
from typing import Any, Final

from pacs.native import Patience, Wire

STORED, NOTHING, BEFORE, WITHIN, STRIP = range(5)
"""What a passage comes to."""

NULL, INTEGER, REAL, TEXT, BLOB = range(5)
CODES, STRINGS, STRING, INTEGERS, DECIMALS, US, SS, UL, SL = range(9)
NO_COLUMN, INTEGER_COLUMN, DATE_COLUMN, TIME_COLUMN, DATETIME_COLUMN = range(5)
NO_STEP, ITS_UID = -1, -2
MOST_STEPS: Final = 64
TEXT_ROOM: Final = 64 << 10
PACKED_ROOM: Final = TEXT_ROOM + TEXT_ROOM // 8 + 16
NOWHERE: Final = 0xFFFFFFFF


class _Held(Union):
    _fields_ = (("integer", c_int64), ("real", c_double), ("bytes", c_void_p))


class Value(Structure):
    """`struct m3_value`."""

    _anonymous_ = ("held",)
    _fields_ = (("kind", c_uint32), ("size", c_uint32), ("held", _Held))


class Joining(Structure):
    """`struct m3_joining`."""

    _fields_ = (
        ("lookup", POINTER(Value)), ("lookup_count", c_uint32),
        ("columns", POINTER(Value)), ("column_count", c_uint32),
        ("series_row", c_uint32), ("series_instances", c_uint32),
        ("study_row", c_uint32), ("study_instances", c_uint32), ("last", c_uint32),
        ("scope", Value), ("patient_id", Value), ("issuer", Value), ("sop_class", Value),
        ("at", c_double), ("write", c_uint64), ("length", c_int64), ("wrote", c_int64),
    )  # fmt: skip


class Step(Structure):
    """`struct m3_step`."""

    _fields_ = (
        ("run", c_void_p), ("text", c_void_p), ("run_size", c_uint32), ("text_size", c_uint32), ("limit", c_uint32),
        ("column", c_uint32), ("begins", c_uint8 * 6), ("reader", c_uint8), ("fold", c_uint8), ("vr", c_char * 2),
    )  # fmt: skip


class Piece(Structure):
    """`struct m3_piece`."""

    _fields_ = (("text", c_void_p), ("size", c_uint32), ("step", c_int32), ("always", c_uint32))


class Pattern(Structure):
    """`struct m3_pattern`."""

    _fields_ = (
        ("steps", POINTER(Step)), ("pieces", POINTER(Piece)), ("run", c_void_p), ("text", c_void_p),
        ("step_count", c_uint32), ("piece_count", c_uint32), ("run_size", c_uint32), ("text_size", c_uint32),
        ("explicit_vr", c_uint32), ("reach", c_uint32), ("uid_step", c_uint32), ("pixels", c_uint32),
    )  # fmt: skip


class FollowedStep(Structure):
    """What came of one element that differs: its entry in the JSON, and its first value folded for its column."""

    _fields_ = (
        ("at", c_uint32), ("size", c_uint32), ("empty", c_uint32), ("folded", Value), ("text", c_char * 24),
    )  # fmt: skip


class Followed(Structure):
    """`struct m3_followed`."""

    _fields_ = (
        ("json_size", c_uint32), ("row_size", c_uint32), ("place", c_uint32), ("uid_size", c_uint32),
        ("uid", c_void_p), ("steps", FollowedStep * MOST_STEPS),
        ("json", c_uint8 * TEXT_ROOM), ("row", c_uint8 * (TEXT_ROOM // 8)),
    )  # fmt: skip


class Express(Structure):
    """`struct m3_express`, but for what the library alone knows at its end: it is made by `express`."""

    _fields_ = (
        ("wire", POINTER(Wire)), ("patience", POINTER(Patience)), ("pattern", POINTER(Pattern)),
        ("followed", c_void_p), ("packed", c_void_p), ("memory", c_void_p), ("room", c_uint64), ("size", c_uint64),
        ("command", c_void_p), ("like", c_void_p),
        ("command_room", c_uint32), ("like_size", c_uint32), ("number_at", c_uint32), ("uid_at", c_uint32),
        ("uid_room", c_uint32), ("context", c_uint32),
        ("reply", c_void_p),
        ("reply_size", c_uint32), ("reply_number_at", c_uint32), ("reply_uid_at", c_uint32), ("unsent", c_uint32),
        ("before", c_void_p), ("behind", c_void_p), ("facts", c_void_p),
        ("before_size", c_uint32), ("behind_size", c_uint32), ("facts_size", c_uint32),
        ("suffix", c_void_p), ("suffix_size", c_uint32), ("nonce", c_uint8 * 16), ("fd", c_int32),
        ("strip", c_uint64), ("strip_end", c_uint64), ("write", c_uint64), ("erase_size", c_uint64),
        ("joiner", c_uint64), ("lookup", POINTER(Value)), ("joining", Joining),
        ("lookup_uids", c_uint32 * 4), ("uids", c_uint32 * 3), ("times", c_uint32 * 3),
        ("row", c_uint32), ("digest", c_uint32), ("offset", c_uint32), ("length", c_uint32), ("json", c_uint32),
        ("bulk", c_uint32), ("frames", c_uint32),
        ("bulk_before", c_void_p), ("bulk_behind", c_void_p),
        ("bulk_before_size", c_uint32), ("bulk_behind_size", c_uint32), ("frames_size", c_uint32),
        ("frames_at", c_uint32), ("frames_like", c_uint8 * 32),
        ("stage", c_uint32), ("outcome", c_int32), ("joined", c_int32), ("busy", c_uint32), ("stored", c_uint64),
    )  # fmt: skip


def declared(library: Any) -> bool:
    """Whether the library has the functions of these structures; ctypes is told then what they take."""
    if not hasattr(library, "m3_express"):
        return False
    library.m3_sizes.argtypes = (POINTER(c_uint64),)
    library.m3_sizes.restype = None
    library.m3_express.argtypes, library.m3_express.restype = (c_void_p,), c_int32
    library.m3_follow.argtypes = (POINTER(Pattern), c_void_p, c_uint64, c_void_p)
    library.m3_follow.restype = c_int32
    return True


def room(library: Any) -> int:
    """How many bytes the library's m3_express takes. What is known of its structures here is checked."""
    found = (c_uint64 * 3)()
    library.m3_sizes(found)
    assert (found[1], found[2]) == (sizeof(Followed), sizeof(Express)), "native.h has changed"
    return int(found[0])
