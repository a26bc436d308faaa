"""Arriving bytes: in memory while small, then in a file; hashed, limited, never left behind."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from pacs import spool as spooling
from pacs.errors import OutOfResources, TooLarge, Unavailable
from pacs.spool import IN_MEMORY_BYTES, Spool


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
        assert (spool.path is None) is (length + 8 <= IN_MEMORY_BYTES)
        assert spool.digest() == hashlib.sha256(data).hexdigest()
        assert spool.digest(b"x") == hashlib.sha256(data + b"x").hexdigest()
        spool.fill_reserve(b"12345678")
        with spool.view() as view:
            assert view == b"12345678" + data
            assert view.readonly
        assert spool.persist().read_bytes() == b"12345678" + data
    assert list(tmp_path.iterdir()) == []


def test_a_moved_file_is_left_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write(b"kept")
    spool.persist().rename(tmp_path / "object")
    spool.moved()
    spool.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["object"]


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
        os.dup2(full, spool._fd)
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
