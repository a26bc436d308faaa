"""The digest of stored content: BLAKE3 with 256 bits, see docs/adr/0004-blake3.md. Other digests are SHA-256.

`Digest` is of bytes that are there. What arrives piece by piece is hashed by `running`, of which there are two
implementations: `Plain` is the reference, `Compiled` leaves the interpreter to others meanwhile.
"""

from __future__ import annotations

from ctypes import addressof, byref, c_char, c_char_p, c_void_p, cast, create_string_buffer
from typing import Any, Protocol

from blake3 import blake3 as Digest

from pacs import native

__all__ = ["Compiled", "Digest", "Plain", "Running", "running"]

DIGEST_BYTES = 32


class Running(Protocol):
    """The digest of what has come so far. For one thread at a time."""

    def update(self, view: memoryview) -> None:
        """Take in the next bytes."""

    def copied(self, view: memoryview, to: memoryview) -> None:
        """Take in the next bytes and put them into `to`, which is as long and may be written to."""

    def digest(self, suffix: bytes = b"") -> bytes:
        """Of everything that came, and the suffix behind it; more may come, without the suffix."""


class Plain:
    """By the package of BLAKE3's authors."""

    def __init__(self) -> None:
        self._hash = Digest()

    def update(self, view: memoryview) -> None:
        """What `Running` says."""
        self._hash.update(view)

    def copied(self, view: memoryview, to: memoryview) -> None:
        """What `Running` says."""
        to[:] = view
        self._hash.update(to)

    def digest(self, suffix: bytes = b"") -> bytes:
        """What `Running` says."""
        whole = self._hash
        if suffix:
            whole = whole.copy()
            whole.update(suffix)
        return whole.digest()


class Compiled:
    """By `pacs/native/hash.c`."""

    def __init__(self, library: Any, begun: native.Hash | None = None) -> None:
        """`begun` is a state of the library's that goes on here."""
        self._library = library
        self._state = native.Hash() if begun is None else begun
        self._at = byref(self._state)
        if begun is None:
            library.m3_hash_begin(self._at)

    def update(self, view: memoryview) -> None:
        """What `Running` says."""
        self._library.m3_hash_feed(self._at, _address(view), len(view))

    def copied(self, view: memoryview, to: memoryview) -> None:
        """What `Running` says."""
        if view.readonly:
            to[:] = view
            self.update(to)
        elif view:
            self._library.m3_hash_copy(self._at, _address(to), _address(view), len(view))

    def digest(self, suffix: bytes = b"") -> bytes:
        """What `Running` says."""
        state = self._at
        if suffix:
            state = byref(native.Hash.from_buffer_copy(self._state))
            self._library.m3_hash_feed(state, suffix, len(suffix))
        out = create_string_buffer(DIGEST_BYTES)
        self._library.m3_hash_end(state, out)
        return out.raw


def _address(view: memoryview) -> Any:
    """Where the bytes are; of those that nobody may write to, where a copy of them is."""
    if view.readonly:
        return cast(c_char_p(view.tobytes()), c_void_p)
    return addressof(c_char.from_buffer(view)) if view else None


def running() -> Running:
    """The quickest there is."""
    library = native.load()
    return Plain() if library is None else Compiled(library)
