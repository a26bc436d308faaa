"""Requests that differ from one before on their connection in nothing but what they ask for.

A client sends the same header fields with each of its requests, and reading them takes longer than most answers. What
was read once of them, by the parser of HTTP, is known for the next request that has the very same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any
from urllib.parse import unquote

LONGEST = 4 << 10
"""Bytes of header fields that are remembered for a connection."""

_BEGIN, _VERSION, _END = b"GET ", b" HTTP/1.1", b"\r\n\r\n"
_BEGIN_OF_PATH = b"GET /"  # an absolute form says more than its fields do

# What RFC 3986 has in a path and a query, beginning with one slash; anything else is for the parser to judge.
_TARGET = re.compile(rb"/(?![/?])[A-Za-z0-9._~%:@!$&'()*+,;=/-]*(?:\?[A-Za-z0-9._~%:@!$&'()*+,;=/?-]*)?")

_KEPT = ("type", "asgi", "http_version", "server", "client", "scheme", "root_path", "headers")

Fields = tuple[tuple[bytes, bytes], ...]


class Head:
    """All of a GET but what it asks for, as it was read once."""

    __slots__ = ("_rest", "_scope", "fields", "told")

    def __init__(self, rest: bytes, fields: Fields, scope: dict[str, Any]) -> None:
        """`rest` are the bytes behind what is asked for, `fields` what they say, `scope` that of ASGI."""
        self._rest = rest
        self.fields = fields
        self.told: dict[Hashable, Any] = {}
        """What others find out from the fields alone."""
        self._scope = scope

    @classmethod
    def of(cls, data: bytes, fields: Fields, scope: dict[str, Any]) -> Head | None:
        """That of a request which is `data` and nothing else; None where that is not sure, or it is long."""
        line = data.find(b"\r\n")
        if (
            len(data) - line > LONGEST
            or not data.startswith(_BEGIN_OF_PATH)
            or data.find(_END) != len(data) - len(_END)
        ):
            return None
        if data[line - len(_VERSION) : line] != _VERSION or data.count(b"\n") != data.count(b"\r\n"):
            return None
        return cls(data[line - len(_VERSION) :], fields, {"method": "GET", **{key: scope[key] for key in _KEPT}})

    def asked(self, data: bytes) -> bytes | None:
        """What `data` asks for, where it is a whole request with this head and nothing else; else None."""
        if not data.endswith(self._rest) or not data.startswith(_BEGIN):
            return None
        target = data[len(_BEGIN) : -len(self._rest)]
        return target if _TARGET.fullmatch(target) else None

    def scope(self, target: bytes, state: dict[str, Any]) -> dict[str, Any]:
        """The ASGI scope of a request for `target`."""
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        return {
            **self._scope, "raw_path": raw_path, "path": unquote(path) if "%" in path else path, "query_string": query,
            "state": state,
        }  # fmt: skip
