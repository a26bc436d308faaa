"""Text of every Specific Character Set (0008,0005) as str, never failing (PS3.3 C.12.1.1.2, PS3.5 section 6.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

Decoder = Callable[[bytes], str]

DEFAULT_CODEC = "latin-1"
"""For the default repertoire: ISO-IR 6 is a part of it, and what lies beyond is most often Latin alphabet No. 1."""

# Defined terms without "ISO_IR " or "ISO 2022 IR ", PS3.3 Tables C.12-2 to C.12-5, to the codec of the whole value.
_CODECS = {
    "": DEFAULT_CODEC,
    "6": DEFAULT_CODEC,
    "13": "shift_jis",
    "58": "gb2312",
    "87": "shift_jis",
    "100": "latin-1",
    "101": "iso8859-2",
    "109": "iso8859-3",
    "110": "iso8859-4",
    "126": "iso8859-7",
    "127": "iso8859-6",
    "138": "iso8859-8",
    "144": "iso8859-5",
    "148": "iso8859-9",
    "149": "euc_kr",
    "159": "shift_jis",
    "166": "tis-620",
    "192": "utf-8",
    "203": "iso8859-15",
    "GB18030": "gb18030",
    "GBK": "gb18030",
    "UTF8": "utf-8",
}

_SINGLE_BYTE = ("100", "101", "109", "110", "144", "127", "126", "138", "148", "203", "13", "166")
DEFINED_TERMS: tuple[str, ...] = (
    *(f"ISO_IR {number}" for number in _SINGLE_BYTE), "ISO_IR 192", "GB18030", "GBK",
    *(f"ISO 2022 IR {number}" for number in ("6", *_SINGLE_BYTE, "87", "159", "149", "58")),
)  # fmt: skip
"""The Defined Terms of Specific Character Set (PS3.3 Tables C.12-2 to C.12-5), all of which are read."""

# PS3.3 Tables C.12-3 and C.12-4: the escape sequence, without ESC, to the codec of what follows; where `keep` is True
# the codec wants to see the escape sequence itself.
_ESCAPES: dict[bytes, tuple[str, bool]] = {
    b"(B": (DEFAULT_CODEC, False),
    b"(J": ("shift_jis", False),
    b")I": ("shift_jis", False),
    b"-A": ("latin-1", False),
    b"-B": ("iso8859-2", False),
    b"-C": ("iso8859-3", False),
    b"-D": ("iso8859-4", False),
    b"-F": ("iso8859-7", False),
    b"-G": ("iso8859-6", False),
    b"-H": ("iso8859-8", False),
    b"-L": ("iso8859-5", False),
    b"-M": ("iso8859-9", False),
    b"-T": ("tis-620", False),
    b"-b": ("iso8859-15", False),
    b"$B": ("iso2022_jp_2", True),
    b"$@": ("iso2022_jp_2", True),
    b"$(D": ("iso2022_jp_2", True),
    b"$)C": ("euc_kr", False),
    b"$)A": ("gb2312", False),
}
_SPLIT = re.compile(b"\x1b(" + b"|".join(re.escape(each) for each in sorted(_ESCAPES, key=len, reverse=True)) + b")")
_RESET = re.compile(rb"[\\^=\r\n\f\t]")
_TERM = re.compile(r"(?:ISO)?[ _-]*(?:2022)?[ _-]*(?:IR)?[ _-]*(.*)")


def _codec(term: str) -> str:
    matched = _TERM.fullmatch(term.strip().upper())
    name = matched.group(1) if matched else ""
    return _CODECS.get(name.replace("-", "").replace("_", ""), DEFAULT_CODEC)


def _plain(codec: str) -> Decoder:
    def decode(raw: bytes) -> str:
        return raw.decode(codec, "replace")

    return decode


def _extended(initial: str) -> Decoder:
    def decode(raw: bytes) -> str:
        if b"\x1b" not in raw:
            return raw.decode(initial, "replace")
        pieces = _SPLIT.split(raw)
        out = [pieces[0].decode(initial, "replace")]
        for escape, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            codec, keep = _ESCAPES[escape]
            if keep:
                # Two-byte G0 sets: delimiters cannot be told from second bytes, and a new escape has to end them.
                out.append((b"\x1b" + escape + piece).decode(codec, "replace"))
                continue
            # PS3.5 6.1.2.5.3: a delimiter brings the initial sets back.
            end = _RESET.search(piece)
            cut = end.start() if end else len(piece)
            out.append(piece[:cut].decode(codec, "replace") + piece[cut:].decode(initial, "replace"))
        return "".join(out)

    return decode


@lru_cache(maxsize=64)
def decoder(terms: Sequence[str]) -> Decoder:
    """A function from the bytes of a value to its text, for the values of Specific Character Set (a tuple).

    Unknown terms read as the default repertoire, bytes outside the set as U+FFFD. The whole value has to be decoded
    before it is split at backslashes: 5CH is a second byte in GB18030, GBK and JIS X 0208.
    """
    if not terms:
        return _plain(DEFAULT_CODEC)
    initial = _codec(terms[0])
    if initial in ("utf-8", "gb18030"):
        return _plain(initial)
    if len(terms) > 1 or "2022" in terms[0]:
        return _extended(initial)
    return _plain(initial)


def encoder(term: str) -> str | None:
    """The codec in which all text of this one Defined Term can be written, None where it needs escapes or is unknown.

    ISO_IR 13 is left out: its backslash and tilde are other characters.
    """
    found = _TERM.fullmatch(term.strip().upper())
    name = found.group(1).replace("-", "").replace("_", "") if found else ""
    writable = name in _CODECS and name not in ("13", "58", "87", "149", "159")
    return ("ascii" if name in ("", "6") else _CODECS[name]) if writable and "2022" not in term else None
