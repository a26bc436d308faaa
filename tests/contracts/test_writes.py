"""Writes that go on beside their caller: what was begun is on the disk when it has ended, or nothing was begun."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pacs import native
from pacs.buffers import Memory
from pacs.storage.underway import Writes

BLOCK = 4096


def memory(content: bytes) -> memoryview:
    held = Memory(len(content))
    view = memoryview(held.map)[held.start : held.start + len(content)]
    view[:] = content
    return view


def opened(path: Path) -> int:
    path.write_bytes(bytes(64 * BLOCK))
    try:
        return os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError:  # a file system without it: the kernel takes its time then, and the rest is the same
        return os.open(path, os.O_RDWR)


@pytest.fixture
def writes() -> Writes:
    assert native.load() is not None, "the part in C is built by `make install`"
    return Writes()


def test_what_was_begun_is_there_when_it_has_ended_whoever_waits(tmp_path: Path, writes: Writes) -> None:
    path = tmp_path / "file"
    fd = opened(path)
    contents = [os.urandom(BLOCK * (1 + n % 3)) for n in range(16)]
    views = [memory(content) for content in contents]
    begun = [writes.begin(fd, view, 4 * BLOCK * n) for n, view in enumerate(views)]
    ended = list[int]()
    for each in begun:
        assert each is not None
        thread = threading.Thread(target=lambda each=each: ended.append(each.end()))
        thread.start()
        thread.join()
    os.close(fd)
    assert ended == [len(content) for content in contents]
    for n, content in enumerate(contents):
        assert path.read_bytes()[4 * BLOCK * n :][: len(content)] == content


def test_a_write_that_cannot_be_begun_is_left_to_the_caller(tmp_path: Path, writes: Writes) -> None:
    fd = opened(tmp_path / "file")
    view = memory(b"x" * BLOCK)
    closed = os.dup(fd)
    os.close(closed)
    assert writes.begin(closed, view, 0) is None
    again = writes.begin(fd, view, BLOCK)
    assert again is not None
    assert again.end() == BLOCK
    os.close(fd)


def test_a_write_that_fails_says_why(writes: Writes) -> None:
    fd = os.open("/dev/full", os.O_RDWR)
    begun = writes.begin(fd, memory(b"x" * BLOCK), 0)
    os.close(fd)
    if begun is not None:  # a kernel may say so at once
        with pytest.raises(OSError, match="No space left"):
            begun.end()


def test_without_the_part_in_c_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: None)
    fd = opened(tmp_path / "file")
    assert Writes().begin(fd, memory(b"x" * BLOCK), 0) is None
    os.close(fd)
