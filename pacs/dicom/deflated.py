"""The deflated data set made plain, within caps that no bomb gets past (PS3.5 annex A.5, RFC 1951)."""

from __future__ import annotations

import zlib
from typing import Final

from pacs.errors import MalformedDataset, TooLarge

MAX_RATIO: Final = 200
FREE_BYTES: Final = 16 << 20
"""So much may come out of any input: empty masks shrink beyond every ratio, and this much does no harm."""


def inflate(dataset: bytes | memoryview, max_bytes: int) -> bytes:
    """The inflated bytes of `dataset`.

    Raises TooLarge beyond `max_bytes` or, after the first 16 MiB, beyond 200 times the input; MalformedDataset if the
    stream is broken or ends early. Bytes after the end of the stream (its padding, A.5) are ignored.
    """
    cap = min(max_bytes, FREE_BYTES + MAX_RATIO * len(dataset))
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    out = bytearray()
    view = memoryview(dataset)
    try:
        for start in range(0, len(view), 1 << 18):
            piece: bytes | memoryview = view[start : start + (1 << 18)]
            while piece and not stream.eof:
                out += stream.decompress(piece, min(1 << 20, cap + 1 - len(out)))
                if len(out) > cap:
                    raise TooLarge(f"deflated data set of {len(view)} bytes inflates to more than {cap}")
                piece = stream.unconsumed_tail
            if stream.eof:
                break
        while not stream.eof:
            # Output that did not fit into the last call may still be held back.
            more = stream.decompress(b"", min(1 << 20, cap + 1 - len(out)))
            out += more
            if len(out) > cap:
                raise TooLarge(f"deflated data set of {len(view)} bytes inflates to more than {cap}")
            if not more:
                raise MalformedDataset("the deflated data set ends early")
    except zlib.error:
        raise MalformedDataset("the deflated data set is no deflate stream") from None
    return bytes(out)
