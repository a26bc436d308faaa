"""Multipart bodies (RFC 2046, RFC 2387): made exactly as asked, and taken apart strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_PARAMETER = re.compile(r';\s*([^\s=;]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')


def content_type(header: str) -> tuple[str, dict[str, str]]:
    """The media type in lower case and its parameters (names in lower case, values unquoted)."""
    value, _, _ = header.partition(";")
    found = {}
    for name, text in _PARAMETER.findall(header):
        text = text.strip()
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        found[name.lower()] = text
    return value.strip().lower(), found


@dataclass(frozen=True)
class Part:
    """One part: its headers as they stood, and its content."""

    headers: tuple[tuple[str, str], ...]
    content: bytes = field(repr=False)

    def header(self, name: str) -> str:
        """A header's value; empty where it is absent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def type(self) -> str:
        """The media type without parameters, in lower case."""
        return content_type(self.header("Content-Type"))[0]

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the media type."""
        return content_type(self.header("Content-Type"))[1]


def split(header: str, body: bytes) -> list[Part]:
    """The parts of a body. Raises ValueError, in words, where RFC 2046 5.1.1 is broken."""
    kind, parameters = content_type(header)
    boundary = parameters.get("boundary", "")
    if kind != "multipart/related":
        raise ValueError(f"Content-Type is {header!r}, not multipart/related")
    if not boundary:
        raise ValueError("Content-Type has no boundary")
    if len(boundary) > 70 or not re.fullmatch(r"[0-9A-Za-z'()+_,./:=? -]*[0-9A-Za-z'()+_,./:=?-]", boundary):
        raise ValueError(f"{boundary!r} is no legal boundary")
    delimiter = b"\r\n--" + boundary.encode("ascii")
    text = b"\r\n" + body
    pieces = re.split(re.escape(delimiter) + rb"(--)?[ \t]*(?=\r\n|\Z)", text)
    # pieces: preamble, mark, part, mark, part, … , mark "--", epilogue
    marks, contents = pieces[1::2], pieces[2::2]
    if b"--" not in marks:
        raise ValueError("the closing delimiter is missing")
    closing = marks.index(b"--")
    parts = []
    for content in contents[:closing]:
        if not content.startswith(b"\r\n"):
            raise ValueError("a delimiter line does not end in CRLF")
        if content.startswith(b"\r\n\r\n"):
            head, value = b"", content[4:]
        else:
            head, mark, value = content[2:].partition(b"\r\n\r\n")
            if not mark:
                raise ValueError("a part has no empty line after its headers")
        headers = []
        for line in head.split(b"\r\n") if head else ():
            name, colon, value_ = line.decode("latin-1").partition(":")
            if not colon or b"\n" in line:
                raise ValueError(f"{line!r} is no header of a part")
            headers.append((name.strip(), value_.strip()))
        parts.append(Part(tuple(headers), value))
    return parts


def join(parts: Iterable[tuple[str, bytes]], boundary: str = "conformance-boundary") -> bytes:
    """A body of parts, each given by its header lines (`Content-Type: …`, more by CRLF) and its content."""
    made = b"".join(
        b"--" + boundary.encode() + b"\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts
    )
    return made + b"--" + boundary.encode() + b"--\r\n"


def related(kind: str, boundary: str = "conformance-boundary") -> str:
    """The Content-Type of such a body, quoted as RFC 2387 has it."""
    return f'multipart/related; type="{kind}"; boundary="{boundary}"'
