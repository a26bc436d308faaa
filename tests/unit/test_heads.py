"""Requests with the head of the one before: known by their very bytes, or left to the parser."""

from __future__ import annotations

from typing import Any

import pytest

from pacs.server.heads import LONGEST, Head

FIELDS = b"Host: archive.example\r\nAccept: */*\r\n\r\n"
SCOPE: dict[str, Any] = {
    "type": "http", "asgi": {}, "http_version": "1.1", "server": None, "client": None, "scheme": "http",
    "root_path": "", "headers": [(b"host", b"archive.example"), (b"accept", b"*/*")], "state": {"of": "the first"},
    "path_params": {"of": "the first"},
}  # fmt: skip


def head_of(data: bytes) -> Head | None:
    return Head.of(data, tuple(SCOPE["headers"]), SCOPE)


def request(target: bytes, fields: bytes = FIELDS) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + fields


@pytest.fixture
def head() -> Head:
    made = head_of(request(b"/a?b=c"))
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a?b=c", "/a", b"b=c"),
        (b"/dicom-web/studies?PatientID=P%2A&limit=2", "/dicom-web/studies", b"PatientID=P%2A&limit=2"),
        (b"/studies/1.2.3/series", "/studies/1.2.3/series", b""),
        (b"/a%20b//c?", "/a b//c", b""),
        (b"/a?b=c?d/e", "/a", b"b=c?d/e"),
    ],
)
def test_another_request_with_the_same_fields(head: Head, target: bytes, path: str, query: bytes) -> None:
    assert head.asked(request(target)) == target
    scope = head.scope(target, {"own": True})
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, target.partition(b"?")[0], query)
    assert (scope["method"], scope["headers"], scope["state"]) == ("GET", SCOPE["headers"], {"own": True})
    assert "path_params" not in scope


@pytest.mark.parametrize(
    "data",
    [
        b"",
        FIELDS,
        request(b"/a", b"Host: archive.example\r\nAccept: text/plain\r\n\r\n"),
        request(b"/a", FIELDS.lower()),
        request(b"/a")[:-2],
        request(b"/a") + b"G",
        request(b"/a") + request(b"/b"),  # pipelined: the parser takes them one by one
        request(b"/a", b"Content-Length: 3\r\n" + FIELDS) + b"abc",
        request(b"/a", b"X: y\r\n" + FIELDS),
        b"POST" + request(b"/a")[3:],
        b"HEAD" + request(b"/a")[3:],
        request(b"http://elsewhere.example/a"),
        request(b"*"),
        request(b"//elsewhere.example/a"),
        request(b"/a b"),
        request(b"/a\r\nX: y HTTP/1.1\r\nGET /b"),
        request(b"/a\x00"),
        request(b"/\xc3\xa4"),
        request(b"/a#b"),
        request(b"/a").replace(b"1.1", b"1.0"),
    ],
)
def test_anything_else_is_for_the_parser(head: Head, data: bytes) -> None:
    assert head.asked(data) is None


@pytest.mark.parametrize(
    "data",
    [
        request(b"/a") + request(b"/b"),
        request(b"/a", b"Host: x\nX: y\r\n\r\n"),
        request(b"/a", b"Host: x\n\nGET /b HTTP/1.1\r\n" + FIELDS),
        b"\r\n" + request(b"/a"),
        request(b"/a")[:-1],
        request(b"/a").replace(b"1.1", b"1.0"),
        b"get" + request(b"/a")[3:],
        request(b"/a", b"X: " + b"y" * LONGEST + b"\r\n" + FIELDS),
    ],
)
def test_what_may_be_more_than_one_request_is_not_remembered(data: bytes) -> None:
    assert head_of(data) is None
