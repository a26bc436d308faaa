"""RFC 2046 5.1 and RFC 2387: the streaming parser, whatever the chunks, and the writer against it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb.multipart import Event, MalformedBody, Parser, PartBegin, PartEnd, Writer
from dicomweb.seeking import WORTH_BYTES, Sought
from pacs.errors import InvalidInput, TooLarge

Part = tuple[dict[str, str], bytes]


def received(parser: Parser, chunk: bytes) -> Iterator[Event]:
    """The events of a chunk that is received where the parser has room for it, among what others left there."""
    left = memoryview(chunk)
    while left:
        room = parser.room()
        count = min(len(room), len(left))
        room[:] = (b"\r\n--b\r\n\r\n" * len(room))[: len(room)]
        room[:count] = left[:count]
        left = left[count:]
        yield from parser.filled(count)


def parts(chunks: Iterable[bytes], boundary: str = "b", *, direct: bool = False, **limits: int) -> list[Part]:
    parser, found = Parser(boundary, **limits), []
    headers: dict[str, str] = {}
    content = bytearray()
    for chunk in chunks:
        for event in received(parser, chunk) if direct else parser.feed(chunk):
            match event:
                case PartBegin(given):
                    headers, content = dict(given), bytearray()
                case PartEnd():
                    found.append((headers, bytes(content)))
                case _:
                    content += event
    parser.finish()
    return found


def body(*contents: bytes, boundary: str = "b", header: bytes = b"Content-Type: application/dicom\r\n") -> bytes:
    dash = b"--" + boundary.encode()
    return b"".join(dash + b"\r\n" + header + b"\r\n" + each + b"\r\n" for each in contents) + dash + b"--"


HEADERS = {"content-type": "application/dicom"}


def test_a_boundary_is_found_wherever_it_is_in_memory() -> None:
    sought = Sought(3 * WORTH_BYTES)
    wanted = b"\r\n--boundary"
    assert sought.find(wanted, 0, len(sought.memory)) == -1
    for at in (0, 1, 17, WORTH_BYTES, 3 * WORTH_BYTES - len(wanted)):
        sought.memory[:] = bytes(len(sought.memory))
        sought.memory[at : at + len(wanted)] = wanted
        for start, end in (
            (0, len(sought.memory)),
            (at, at + len(wanted)),
            (at, len(sought.memory)),
            (0, at + len(wanted)),
        ):
            assert sought.find(wanted, start, end) == at
        assert sought.find(wanted, at + 1, len(sought.memory)) == -1
        assert sought.find(wanted, 0, at + len(wanted) - 1) == -1
        assert sought.find(wanted, at, at) == -1


def test_parts_in_order() -> None:
    assert parts([body(b"one", b"", b"\r\n")]) == [(HEADERS, b"one"), (HEADERS, b""), (HEADERS, b"\r\n")]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\r\n--", b"--b", b"\r\n-", b"\r\n--c\r\n", b"\r"]))),
    st.integers(1, 9),
)
def test_chunk_borders_do_not_matter(contents: list[bytes], step: int) -> None:
    contents = [each for each in contents if b"\r\n--b" not in b"\r\n" + each]
    raw = b"preamble\r\n" + body(*contents) + b"\r\nepilogue"
    chunks = [raw[i : i + step] for i in range(0, len(raw), step)]
    if contents:
        assert parts(chunks) == [(HEADERS, each) for each in contents]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\r\n--", b"--b", b"\r\n-", b"\r\n--c\r\n", b"\r"]))),
    st.integers(1, 9),
)
def test_received_in_place_the_parts_are_the_same(contents: list[bytes], step: int) -> None:
    contents = [b"", *(each for each in contents if b"\r\n--b" not in b"\r\n" + each)]
    raw = b"preamble\r\n" + body(*contents) + b"\r\nepilogue"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dicomweb.multipart.ROOM_BYTES", 64)
        chunks = [raw[i : i + step] for i in range(0, len(raw), step)]
        assert parts(chunks, direct=True) == [(HEADERS, each) for each in contents]
        assert parts([raw], direct=True) == [(HEADERS, each) for each in contents]


def test_preamble_and_epilogue_are_ignored() -> None:
    assert parts([b"to be ignored\r\n", body(b"x"), b"\r\n--b\r\nalso ignored"]) == [(HEADERS, b"x")]


@pytest.mark.parametrize("boundary", ["b" * 70, "b" * 73, "0'()+_,-./:=?9", "a b"])
def test_every_legal_boundary(boundary: str) -> None:
    assert parts([body(b"x", boundary=boundary)], boundary) == [(HEADERS, b"x")]


@pytest.mark.parametrize("boundary", ["", "b" * 201, "b ", "b\r\n", "bä", "b;"])
def test_other_boundaries_are_refused(boundary: str) -> None:
    with pytest.raises(MalformedBody):
        Parser(boundary)


def test_boundary_text_inside_content_is_content() -> None:
    content = b"--b\r\n --b-- \r\n-b --b"
    assert parts([body(b"\0" + content)]) == [(HEADERS, b"\0" + content)]


def test_padding_after_the_boundary() -> None:
    assert parts([b"--b \t \r\nA: 1\r\n\r\nx\r\n--b--"]) == [({"a": "1"}, b"x")]


def test_headers_folded_missing_and_alone() -> None:
    raw = b"--b\r\nA:  1\r\n 2\r\nB :3\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b\r\nC: 4\r\n\r\n--b--"
    assert parts([raw]) == [({"a": "1 2", "b": "3"}, b"x"), ({}, b"y"), ({"c": "4"}, b"")]


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"nothing", b"--b", b"--b\r\nA: 1\r\n\r\nx", b"--b\r\nA: 1\r\n\r\nx\r\n--b",
        b"--b\r\nA: 1\r\n\r\nx\r\n--b-",
        b"--bx\r\n\r\nx\r\n--b--", b"--b\r\nno colon\r\n\r\nx\r\n--b--", b"--b" + b" " * 300 + b"\r\n\r\nx\r\n--b--",
        b"--b\r\nA: " + b"1" * 20_000 + b"\r\n\r\nx\r\n--b--", b"--b\r\n" + b"A: 1\r\n" * 4_000,
    ],
)  # fmt: skip
def test_malformed_bodies_are_refused(raw: bytes) -> None:
    for chunks in ([raw], [raw[i : i + 7] for i in range(0, len(raw), 7)]):
        with pytest.raises(InvalidInput):
            parts(chunks)


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(TooLarge):
        parts([body(*[b"x"] * 4)], max_parts=3)


def test_content_is_not_held_back() -> None:
    parser = Parser("b")
    list(parser.feed(b"--b\r\nA: 1\r\n\r\n" + b"x" * 10))
    seen = sum(len(e) for e in parser.feed(b"y" * 100_000) if isinstance(e, memoryview))
    assert seen >= 100_000


def test_what_the_writer_writes_the_parser_reads() -> None:
    writer = Writer("application/octet-stream")
    boundary = writer.content_type.split("boundary=")[1]
    raw = writer.head("application/octet-stream", "http://h/1") + b"one" + writer.head("image/jls") + b"two"
    assert parts([raw + writer.close], boundary) == [
        ({"content-type": "application/octet-stream", "content-location": "http://h/1"}, b"one"),
        ({"content-type": "image/jls"}, b"two"),
    ]
    assert 'type="application/octet-stream"' in writer.content_type
