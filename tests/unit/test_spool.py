"""Arriving bytes: in memory while small, then in a file; hashed, limited, never left behind."""

from __future__ import annotations

import errno
import os
import time
from ctypes import byref
from pathlib import Path

import pytest
from servers import missing

from pacs import native
from pacs import spool as spooling
from pacs.buffers import Buffers
from pacs.digest import Compiled, Digest, running
from pacs.errors import OutOfResources, TooLarge, Unavailable
from pacs.spool import IN_MEMORY_BYTES, MEMORY_BYTES, Spool, TemporaryFile


@pytest.mark.parametrize("length", [0, 1, 1000, IN_MEMORY_BYTES, IN_MEMORY_BYTES + 1, 3_000_000])
@pytest.mark.parametrize("step", [999_999, 65_536])
def test_bytes_are_kept_and_hashed(tmp_path: Path, length: int, step: int) -> None:
    data = os.urandom(length)
    with Spool(tmp_path, reserve=8) as spool:
        buffer = bytearray(step)
        for at in range(0, length, step):
            piece = data[at : at + step]
            buffer[: len(piece)] = piece
            spool.write(memoryview(buffer)[: len(piece)])
            buffer[:] = bytes(step)  # the buffer is the caller's
        assert spool.size == length + 8
        assert (spool.backing is None) is (length + 8 <= IN_MEMORY_BYTES)
        assert spool.digest() == Digest(data).hexdigest()
        assert spool.digest(b"x") == Digest(data + b"x").hexdigest()
        spool.fill_reserve(b"12345678")
        with spool.view() as view:
            assert view == b"12345678" + data
            assert view.readonly
        assert spool.plain_digest() == Digest(data).digest()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [0, 1000, IN_MEMORY_BYTES - 8, IN_MEMORY_BYTES, 3_000_000])
@pytest.mark.parametrize("step", [200_000, 65_521])
def test_bytes_may_be_received_in_place(tmp_path: Path, length: int, step: int) -> None:
    data = os.urandom(length)
    buffers = Buffers(MEMORY_BYTES)
    for turn in range(3):
        with Spool(tmp_path, reserve=8, limit=length, buffers=buffers) as spool:
            at = 0
            while at < length:
                if at % 3 == turn:  # both ways may be mixed
                    spool.write(data[at : at + 1])
                    at += 1
                    continue
                with spool.room(min(step, length - at)) or memoryview(b"") as room:
                    count = max(len(room) - at % 7, 1)
                    room[:count] = data[at : at + count]
                spool.filled(count)
                at += count
            assert spool.digest() == Digest(data).hexdigest()
            spool.fill_reserve(b"12345678")
            with spool.view() as view:
                assert view == b"12345678" + data
            with pytest.raises(TooLarge):
                spool.filled(1)
        assert spool.room(1) is None
    assert list(tmp_path.iterdir()) == []


def test_memory_is_used_again_but_never_under_a_view() -> None:
    buffers = Buffers(MEMORY_BYTES, kept=1)
    first = Spool(Path("/nowhere"), buffers=buffers)
    first.write(b"first")
    view = first.view()
    first.discard()
    second = Spool(Path("/nowhere"), reserve=2, buffers=buffers)
    second.write(b"second")
    assert bytes(view) == b"first"
    second.discard()
    third = Spool(Path("/nowhere"), reserve=2, buffers=buffers)
    third.write(b"!")
    with third.view() as seen:
        assert bytes(seen) == b"\0\0!"


def test_what_a_store_has_taken_is_left_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(bytes(IN_MEMORY_BYTES))
    spool.write(b"kept")
    backing = spool.backing
    spool.taken()
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == bytes(IN_MEMORY_BYTES) + b"kept"
    assert backing is not None
    backing.drop()
    assert list(tmp_path.iterdir()) == []


class Middle(TemporaryFile):
    """A place in the middle of a file, on no page boundary."""

    base = 5003

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.told: list[int] = []

    def grown(self, size: int) -> None:
        self.told.append(size)


def test_bytes_may_go_to_the_middle_of_a_file(tmp_path: Path) -> None:
    data = os.urandom(IN_MEMORY_BYTES + 70_000)
    made: list[Middle] = []

    def backing() -> Middle:
        made.append(Middle(tmp_path))
        return made[-1]

    with Spool(tmp_path, reserve=10, backing=backing) as spool:
        for at in range(0, len(data), 300_000):
            spool.write(data[at : at + 300_000])
        spool.fill_reserve(b"0123456789")
        with spool.view() as view:
            assert view == b"0123456789" + data
        assert made[0].told[-1] == spool.size == len(data) + 10
        assert os.pread(made[0].fd, 10, 5003) == b"0123456789"


def test_the_limit_does_not_count_the_reserve(tmp_path: Path) -> None:
    with Spool(tmp_path, reserve=100, limit=10) as spool:
        spool.write(b"0123456789")
        with pytest.raises(TooLarge, match="10 bytes"):
            spool.write(b"!")


def test_a_view_may_outlive_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(bytes(IN_MEMORY_BYTES + 1))
    view = spool.view()
    spool.discard()
    assert view[0] == 0
    assert list(tmp_path.iterdir()) == []
    view.release()


def test_a_full_or_broken_disk_is_told_apart(tmp_path: Path) -> None:
    assert isinstance(spooling.failed(OSError(errno.ENOSPC, "full"), "x"), OutOfResources)
    assert isinstance(spooling.failed(OSError(errno.EIO, "broken"), "x"), Unavailable)
    with pytest.raises(Unavailable):
        Spool(tmp_path / "nowhere").write(bytes(IN_MEMORY_BYTES + 1))
    if Path("/dev/full").exists():
        spool = Spool(tmp_path)
        spool.write(bytes(IN_MEMORY_BYTES + 1))
        full = os.open("/dev/full", os.O_RDWR)
        assert spool.backing is not None
        os.dup2(full, spool.backing.fd)
        os.close(full)
        with pytest.raises(OutOfResources, match="no space left"):
            spool.write(b"more")
        spool.discard()


def test_only_old_leftovers_are_swept(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in ("a.part", "b.part", "object"))
    for path in (old, new, other):
        path.write_bytes(b"")
    os.utime(old, (time.time() - 100,) * 2)
    assert spooling.sweep(tmp_path, older_than_s=50) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.part", "object"]


@pytest.mark.parametrize("more", [0, 1000, IN_MEMORY_BYTES])
def test_memory_that_others_have_filled_goes_on(tmp_path: Path, more: int) -> None:
    library = native.load()
    if library is None:
        missing("the compiled part (python -m pacs.native.make)")
    begun, rest = os.urandom(70_001), os.urandom(more)
    buffers = Buffers(MEMORY_BYTES)
    hashed, filled = native.Hash(), buffers.take()
    library.m3_hash_begin(byref(hashed))
    library.m3_hash_feed(byref(hashed), begun, len(begun))
    filled.map[filled.start + 96 : filled.start + 96 + len(begun)] = begun
    with Spool(tmp_path, lead=88, reserve=8, limit=len(begun + rest), buffers=buffers) as spool:
        with pytest.raises(TooLarge):
            spool.exchange(filled, len(begun + rest) + 1, running())
        theirs = spool.exchange(filled, len(begun), Compiled(library, hashed))
        assert theirs is not filled
        spool.write(rest)
        spool.fill_reserve(b"12345678")
        assert spool.digest() == Digest(begun + rest).hexdigest()
        with spool.view() as view:
            assert view == b"12345678" + begun + rest
    assert buffers.take() is filled, "given back"
