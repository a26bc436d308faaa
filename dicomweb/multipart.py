"""multipart/related bodies (RFC 2387, RFC 2046 5.1): a bounded streaming parser, and the writing of parts. Pure."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

from dicomweb.seeking import Sought
from pacs.errors import InvalidInput, TooLarge

MAX_PARTS = 20_000
MAX_HEADER_BYTES = 16 * 1024
ROOM_BYTES = 256 << 10
"""What is received at a time where there is room for it: it fits a processor's cache until it has been copied on."""

MAX_PADDING = 256  # linear white space between a boundary and its line end

# RFC 2046 5.1.1 allows 70 characters; Orthanc's DICOMweb client writes 73.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,199}[0-9A-Za-z'()+_,\-./:=?]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:[ \t]*([^\r\n]*)")


class MalformedBody(InvalidInput):
    """A body that is no multipart body, or whose end is missing."""


@dataclass(frozen=True, slots=True)
class PartBegin:
    """The header fields of the next part, names in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartEnd:
    """The part is complete."""


Event = PartBegin | memoryview | PartEnd


class Parser:
    """Turns a body, chunk by chunk, into events; holds back no more than one boundary's or one header's length.

    For every part: PartBegin, any number of memoryviews with its content, PartEnd. Raises MalformedBody and TooLarge.
    """

    def __init__(self, boundary: str, max_parts: int = MAX_PARTS) -> None:
        if _BOUNDARY.fullmatch(boundary) is None:
            raise MalformedBody("the boundary parameter is missing or is none (RFC 2046 5.1.1)")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._held: bytes | bytearray = (
            b"\r\n"  # RFC 2046 5.1.1: the first boundary may open the body, without a line end
        )
        self._state = "preamble"
        self._left = max_parts
        self._room: Sought | None = None
        self._filled = 0
        self.behind = memoryview(b"")
        """What has come behind the PartBegin that was just read."""
        self.head = b""
        """Of the part that began last: what was between the delimiter and its content."""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes. Views stay valid as long as they are referenced."""
        data = self._held + chunk if self._held else chunk
        self._held = b""
        at = yield from self._events(data, len(data), data.find)
        self._held = data[at:]

    def room(self) -> memoryview:
        """Memory for the next bytes of the body, to be announced by `filled`: what is received there is not copied."""
        if self._room is None:
            self._room = Sought(ROOM_BYTES)
        if self._held:
            self._filled = len(self._held)
            self._room.memory[: self._filled] = self._held
            self._held = b""
        return memoryview(self._room.memory)[self._filled :]

    def filled(self, count: int) -> Iterator[Event]:
        """The events that the next `count` bytes complete, which are where `room` said.

        To be read to their end; views are valid until then.
        """
        assert self._room is not None
        end = self._filled + count
        at = yield from self._events(self._room.memory, end, self._room.find)
        self._held = self._room.memory[at:end]
        self._filled = 0

    def _events(
        self, data: bytes | bytearray, size: int, find: Callable[[bytes, int, int], int]
    ) -> Generator[Event, None, int]:
        """The events in the first `size` bytes, in which `find` looks; returns from where on they are needed again."""
        at = 0
        while self._state != "epilogue":
            if self._state in ("preamble", "content"):
                found = find(self._delimiter, at, size)
                # Without a delimiter everything goes but a tail that may be the beginning of one.
                end = found if found >= 0 else self._safe_end(data, at, size)
                if self._state == "content" and end > at:
                    yield memoryview(data)[at:end]
                at = end
                if found < 0:
                    break
                if self._state == "content":
                    yield PartEnd()
                self._state, at = "boundary", found + len(self._delimiter)
            elif self._state == "boundary":
                after = self._after_boundary(data, at, size)
                if after is None:
                    break
                at = after
            else:
                end = data.find(b"\r\n\r\n", at, size)
                if end - at > MAX_HEADER_BYTES or (end < 0 and size - at > MAX_HEADER_BYTES):
                    raise MalformedBody("the header of a part is too long")
                if end < 0 or size - end - 2 < len(self._delimiter):
                    break
                begin = PartBegin(_headers(bytes(data[at:end])))
                # A part may be a header alone, whose blank line belongs to the next boundary.
                self._state = "content"
                behind = end + (2 if data.startswith(self._delimiter, end + 2, size) else 4)
                self.head, self.behind = bytes(data[at:behind]), memoryview(data)[behind:size]
                yield begin
                self.behind, at = memoryview(b""), behind
        return size if self._state == "epilogue" else at

    @property
    def delimiter(self) -> bytes:
        """What ends the content of a part."""
        return self._delimiter

    def take_back(self, rest: bytes, parts: int, *, within: bool) -> Iterator[Event]:
        """Go on where others have taken what was `behind`, and so many parts; the events that `rest` completes.

        It is content of a part that has begun as the last one (`within`), else what follows a delimiter. No further
        event may be read of those from before. Raises TooLarge.
        """
        self.behind, self._held, self._filled = memoryview(b""), b"", 0
        self._left -= parts if within else parts - 1  # the first of them was counted when it began
        if self._left < 0:
            raise TooLarge("the body has too many parts")
        self._state = "content" if within else "boundary"
        return self.feed(rest)

    def finish(self) -> None:
        """Nothing, or MalformedBody where the closing boundary never came."""
        if self._state != "epilogue":
            raise MalformedBody("the body ends before its closing boundary")

    def _safe_end(self, data: bytes | bytearray, at: int, size: int) -> int:
        tail = max(at, size - len(self._delimiter) + 1)
        start = data.find(b"\r", tail, size)
        return start if start >= 0 else size

    def _after_boundary(self, data: bytes | bytearray, at: int, size: int) -> int | None:
        """Where the part's header begins, with the line end before it; None while that cannot be told."""
        if data.startswith(b"--", at, size):
            self._state = "epilogue"
            return size
        end = at
        while end < size and data[end] in b" \t":
            end += 1
        if end - at > MAX_PADDING:
            raise MalformedBody("a boundary is followed by too much white space")
        rest = bytes(data[end : min(end + 2, size)])
        if len(rest) < 2 and rest in (b"", b"\r", b"-"):
            return None
        if rest != b"\r\n":
            raise MalformedBody("a boundary is not followed by the end of its line")
        self._left -= 1
        if self._left < 0:
            raise TooLarge("the body has too many parts")
        self._state = "headers"
        return end


def _headers(raw: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    unfolded = re.sub(rb"\r\n[ \t]+", b" ", raw)
    for line in unfolded.split(b"\r\n"):
        found = _HEADER.fullmatch(line)
        if found is not None:
            headers.setdefault(found[1].decode("ascii").lower(), found[2].decode("latin-1").strip())
        elif line:
            raise MalformedBody("a header of a part could not be read")
    return headers


class Writer:
    """The framing of one multipart answer: a random boundary, part heads, the closing line."""

    def __init__(self, media_type: str) -> None:
        self._boundary = secrets.token_hex(16)  # 128 random bits: no part can be made to hold it
        self.content_type = f'multipart/related; type="{media_type}"; boundary={self._boundary}'
        self.close = f"\r\n--{self._boundary}--\r\n".encode("ascii")

    def head(self, content_type: str, location: str = "") -> bytes:
        """What stands before a part's content: the delimiter and the part's header fields."""
        where = f"Content-Location: {location}\r\n" if location else ""
        return f"\r\n--{self._boundary}\r\nContent-Type: {content_type}\r\n{where}\r\n".encode("ascii")
