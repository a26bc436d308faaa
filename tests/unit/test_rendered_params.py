"""PS3.18 8.3.5.1: rendering parameters and byte ranges."""

from __future__ import annotations

import pytest

from dicomweb.bulkdata import byte_range
from dicomweb.errors import RangeNotSatisfiable
from dicomweb.frames import numbers
from dicomweb.rendered import WHOLE, parse_quality, parse_viewport, parse_window
from dicomweb.rendered.documents import cut
from pacs.errors import InvalidInput


def test_windows() -> None:
    assert parse_window("40,400") == (40, 400, "linear")
    assert parse_window("-40.5, 1 ,LINEAR-exact") == (-40.5, 1, "linear-exact")
    assert parse_window("1e2,0.5,sigmoid") == (100, 0.5, "sigmoid")


@pytest.mark.parametrize(
    "text",
    [
        "a,b",
        "4_0,400",
        "\u0661,400",
        "40",
        "40,0",
        "40,-1",
        "40,400,cubic",
        "nan,1",
        "1,inf",
        "",
        "1,2,linear,4",
        "40,0.5,linear",
    ],
)
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_window(text)


def test_viewports() -> None:
    assert parse_viewport("64,32") == (64, 32)
    assert parse_viewport("64,64,10,10,100,-50") == (64, 64, 10, 10, 100, -50)
    assert parse_viewport("64,64,,,100,50") == (64, 64, 0, 0, 100, 50)
    assert parse_viewport("64,64,,,,") == (64, 64, 0, 0, WHOLE, WHOLE)


@pytest.mark.parametrize("text", ["64", "0,64", "64,-1", "64,1.5", "99999,1", "a,b", "1,2,3", ",", "64,64,1,1,x,1"])
def test_viewports_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_viewport(text)


def test_quality() -> None:
    assert (parse_quality("1"), parse_quality("100")) == (1, 100)
    for text in ("0", "101", "x", "", "-1", "1.5", "1000"):
        with pytest.raises(InvalidInput):
            parse_quality(text)


def test_frame_numbers_keep_their_order() -> None:
    assert numbers("3,1,2,1") == [3, 1, 2, 1]
    for text in ("0", "x", "1,,2", "", "1,", "-1", "1.0", "+1", "1," * 20_000 + "1"):
        with pytest.raises(InvalidInput):
            numbers(text)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None), ("bytes=0-9", (0, 10)), ("bytes=90-", (90, 100)), ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)), ("bytes=50-1000", (50, 100)), ("bytes=0-1,5-6", None), ("items=0-1", None),
        ("Bytes=0-9", (0, 10)), ("bytes=9-1", None), ("bytes=-", None), ("bytes=x-1", None),
    ],
)  # fmt: skip
def test_byte_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == expected


def test_ranges_beyond_the_end() -> None:
    for header in ("bytes=100-", "bytes=1000-1001", "bytes=-0"):
        with pytest.raises(RangeNotSatisfiable):
            byte_range(header, 100)


def test_parts_of_fragments_are_those_of_the_whole() -> None:
    spans, whole = [(10, 4), (100, 0), (200, 7), (300, 1)], list(range(12))
    places = [offset + at for offset, length in spans for at in range(length)]
    for start in whole:
        for end in range(start, 13):
            found = [offset + at for offset, length in cut(spans, start, end) for at in range(length)]
            assert found == places[start:end]
