"""Reads ahead of their use: in order, at the same time, within bounds, and given up when nobody wants them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pacs.ahead import ReadAhead
from pacs.errors import Unavailable


@pytest.fixture
def ahead() -> Iterator[ReadAhead]:
    made = ReadAhead(requests=8, size=80)
    yield made
    made.close()


def test_reads_overlap_and_come_in_order(ahead: ReadAhead) -> None:
    together = threading.Barrier(8)  # nobody passes unless eight are there

    def read(number: int) -> bytes:
        together.wait(60)
        return b"%d" % number

    reads = [(10, lambda n=n: read(n)) for n in range(32)]
    assert list(ahead.fetch(reads)) == [b"%d" % n for n in range(32)]


def test_bytes_bound_how_many_are_underway(ahead: ReadAhead) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def read() -> bytes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.002)
        with lock:
            now -= 1
        return b""

    assert len(list(ahead.fetch([(40, read)] * 12))) == 12
    assert most <= 2
    assert len(list(ahead.fetch([(1000, read)] * 3))) == 3  # what fits nowhere is read one by one
    assert ahead._budget.left == 80


def test_several_readers_share_and_none_stands_still(ahead: ReadAhead) -> None:
    holder = ahead.fetch([(20, lambda: b"a")] * 8)
    assert next(holder) == b"a"  # four of its reads hold all there is
    assert ahead._budget.left == 0
    assert list(ahead.fetch([(20, lambda: b"b")] * 5)) == [b"b"] * 5
    assert list(holder) == [b"a"] * 7
    assert ahead._budget.left == 80


def test_what_fails_fails_in_its_turn(ahead: ReadAhead) -> None:
    def fail() -> bytes:
        raise Unavailable("gone")

    reading = ahead.fetch([(10, lambda: b"1"), (10, fail), (10, lambda: b"3")])
    assert next(reading) == b"1"
    with pytest.raises(Unavailable):
        next(reading)
    assert ahead._budget.left == 80


def test_who_leaves_gives_back(ahead: ReadAhead) -> None:
    begun: list[int] = []

    def read(number: int) -> bytes:
        begun.append(number)
        return b""

    reading = ahead.fetch((10, lambda n=n: read(n)) for n in range(1000))
    next(reading)
    reading.close()
    assert ahead._budget.left == 80
    assert len(begun) <= 9
