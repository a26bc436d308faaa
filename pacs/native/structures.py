"""The structures of native.h for instances that the library stores alone (`pacs.likeness`, `express`, `inflow`)."""

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

TO_FOLLOW: Final = 2
"""Said of a data set that has come: what others are like is another now."""

QUIET, TURN, OTHER, UNLIKE, NEXT, NO_ROOM, FULL, LEFT = range(8)
"""Why an inflow stops."""

AT_CONTENT, AT_DATA, AT_END, AT_HEAD = range(4)
"""Where it is."""

JOINED, UNUSUAL, UNWRITTEN, UNJOINED = range(4)
"""What became of one that was to join."""

META_ROOM: Final = 4096
SLOTS: Final = 2

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


class Alike(Structure):
    """`struct m3_alike`."""

    _fields_ = (
        ("pattern", POINTER(Pattern)), ("before", c_void_p), ("behind", c_void_p), ("facts", c_void_p),
        ("suffix", c_void_p), ("bulk_before", c_void_p), ("bulk_behind", c_void_p),
        ("before_size", c_uint32), ("behind_size", c_uint32), ("facts_size", c_uint32), ("suffix_size", c_uint32),
        ("bulk_before_size", c_uint32), ("bulk_behind_size", c_uint32), ("frames_size", c_uint32),
        ("frames_at", c_uint32), ("frames_like", c_uint8 * 32), ("uids", c_uint32 * 3), ("times", c_uint32 * 3),
        ("row", c_uint32), ("digest", c_uint32), ("key", c_uint32), ("offset", c_uint32), ("length", c_uint32),
        ("json", c_uint32), ("bulk", c_uint32), ("frames", c_uint32), ("lookup_uids", c_uint32 * 4),
        ("lookup", POINTER(Value)), ("joining", Joining),
    )  # fmt: skip


class Strip(Structure):
    """`struct m3_strip`."""

    _fields_ = (
        ("at", c_uint64), ("end", c_uint64), ("nonce", c_uint8 * 16), ("fd", c_int32), ("redo", c_uint32),
        ("name", Value),
    )  # fmt: skip


class Express(Structure):
    """`struct m3_express`, but for what the library alone knows at its end: it is made by `room`."""

    _fields_ = (
        ("wire", POINTER(Wire)), ("patience", POINTER(Patience)), ("alike", POINTER(Alike)),
        ("followed", c_void_p), ("packed", c_void_p), ("memory", c_void_p), ("room", c_uint64), ("size", c_uint64),
        ("command", c_void_p), ("like", c_void_p),
        ("command_room", c_uint32), ("like_size", c_uint32), ("number_at", c_uint32), ("uid_at", c_uint32),
        ("uid_room", c_uint32), ("context", c_uint32),
        ("reply", c_void_p),
        ("reply_size", c_uint32), ("reply_number_at", c_uint32), ("reply_uid_at", c_uint32), ("unsent", c_uint32),
        ("strip", Strip), ("write", c_uint64), ("erase_size", c_uint64), ("joiner", c_uint64),
        ("stage", c_uint32), ("spell_ms", c_uint32), ("pause_ms", c_uint32), ("hashed", c_uint32),
        ("outcome", c_int32), ("joined", c_int32), ("busy", c_uint32), ("stored", c_uint64),
    )  # fmt: skip


class Taken(Structure):
    """`struct m3_taken`, but for the values of its columns at its end."""

    _fields_ = (
        ("size", c_uint32), ("value_count", c_uint32), ("uid", Value), ("at", c_double), ("key", Value),
        ("offset", c_uint64), ("length", c_uint64), ("blocks", c_uint64), ("wrote", c_int64),
    )  # fmt: skip


class Inflow(Structure):
    """`struct m3_inflow`, but for what the library alone knows at its end: it is made by `room`."""

    _fields_ = (
        ("alike", POINTER(Alike)), ("followed", c_void_p), ("packed", c_void_p),
        ("fd", c_int32), ("patience_ms", c_uint32), ("until", c_double), ("waited", c_double),
        ("came", c_uint64), ("most", c_uint64), ("left", c_uint64),
        ("staging", c_void_p), ("staging_room", c_uint32), ("start", c_uint32), ("end", c_uint32),
        ("delimiter", c_void_p), ("head", c_void_p), ("delimiter_size", c_uint32), ("head_size", c_uint32),
        ("meta", c_void_p), ("meta_size", c_uint32), ("uid_at", c_uint32), ("uid_size", c_uint32),
        ("meta_now_size", c_uint32), ("meta_now", c_uint8 * META_ROOM),
        ("memory", c_void_p * SLOTS), ("write", c_uint64 * SLOTS), ("under_way", c_void_p * SLOTS),
        ("room", c_uint64), ("size", c_uint64), ("total", c_uint64), ("slot", c_uint32), ("stage", c_uint32),
        ("strip", Strip), ("taken", c_void_p), ("taken_room", c_uint64), ("count", c_uint32),
    )  # fmt: skip


def declared(library: Any) -> bool:
    """Whether the library has the functions of these structures; ctypes is told then what they take."""
    if not hasattr(library, "m3_express"):
        return False
    library.m3_sizes.argtypes = (POINTER(c_uint64),)
    library.m3_sizes.restype = None
    library.m3_express.argtypes, library.m3_express.restype = (c_void_p,), c_int32
    library.m3_inflow.argtypes, library.m3_inflow.restype = (c_void_p,), c_int32
    library.m3_inflow_land.argtypes, library.m3_inflow_land.restype = (c_void_p,), None
    library.m3_join_taken.argtypes = (c_uint64, POINTER(Alike), c_void_p, c_uint32, c_void_p)
    library.m3_join_taken.restype = c_int32
    library.m3_follow.argtypes = (POINTER(Pattern), c_void_p, c_uint64, c_void_p)
    library.m3_follow.restype = c_int32
    return True


def room(library: Any, structure: type[Express] | type[Inflow]) -> int:
    """How many bytes the library takes for one. What is known of its structures here is checked."""
    found = (c_uint64 * 6)()
    library.m3_sizes(found)
    followed, alike, express, known_of_express, inflow, known_of_inflow = map(int, found)
    known = (followed, alike, known_of_express, known_of_inflow)
    assert known == tuple(map(sizeof, (Followed, Alike, Express, Inflow))), "native.h has changed"
    return express if structure is Express else inflow
