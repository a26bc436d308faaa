"""Power loss on a machine that stays on: what was written and never synced is taken away after a kill -9.

`python power.py RECORD serve …` is the server with every write and sync of its own written down. `lose` then plays the
disk's part: of bytes that no sync had covered when the process died, some are there, some are zeros, some are torn in
the middle, and a file whose name was not synced may be gone. SQLite writes its log by itself; with a C compiler here
`walsync.c` watches that, too, and of what was not synced the end is taken away; else the log is left as it is.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacs.storage.underway import Writes

OLD_BYTES = 4096
"""What is overwritten is remembered up to this length, to be there again when the new bytes are lost."""


class Recorder:
    """Stands between the server and its files. `deaf` makes syncs do nothing, as a lying disk would."""

    def __init__(self, record: Path, *, deaf: bool = False, seed: int = 0) -> None:
        self._fd = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._deaf = deaf
        self._dice = random.Random(seed)
        self._write = os.write

    def say(self, *words: object) -> None:
        """Write one line down."""
        self._write(self._fd, (" ".join(map(str, words)) + "\n").encode())

    def written(self, real: Callable[..., int], offset_at: int) -> Callable[..., int]:
        """`real` with what it wrote written down; the offset is its argument number `offset_at` (0: the file's own)."""

        def write(fd: int, data: Any, *rest: Any) -> int:
            if fd == self._fd or not stat.S_ISREG(os.fstat(fd).st_mode):
                return real(fd, data, *rest)
            offset = rest[offset_at - 2] if offset_at else os.lseek(fd, 0, os.SEEK_CUR)
            parts = [data] if isinstance(data, bytes | bytearray | memoryview) else data
            length = sum(map(len, parts))
            old = b""
            if offset < os.fstat(fd).st_size and length <= OLD_BYTES:
                old = os.pread(fd, length, offset)
            synced = len(rest) > 1 and rest[1] & os.RWF_DSYNC
            number, inode = time.monotonic_ns(), os.fstat(fd).st_ino
            if synced:  # said before: dying in it, the disk may have any part of it
                self.say("W", number, inode, offset, length, old.hex() or "-")
                time.sleep(self._dice.random() ** 4 / 20)
                done = real(fd, data, *rest)
                if not self._deaf:
                    self.say("C", number, inode)
                return done
            done = real(fd, data, *rest)
            self.say("W", time.monotonic_ns(), inode, offset, done, old.hex() or "-")
            return done

        return write

    def synced(self, real: Callable[[int], None]) -> Callable[[int], None]:
        """`real`, late, with what it covered written down."""

        def sync(fd: int) -> None:
            number, status = time.monotonic_ns(), os.fstat(fd)  # orders what several processes do
            names = os.listdir(fd) if stat.S_ISDIR(status.st_mode) else []
            time.sleep(self._dice.random() ** 4 / 20)  # the index may well be quicker
            if self._deaf:
                return
            real(fd)
            self.say("D" if names else "S", number, status.st_ino, *names)

        return sync

    def install(self) -> None:
        """Take the place of the functions that write and sync."""
        os.write = self.written(os.write, 0)
        os.pwrite = self.written(os.pwrite, 2)
        os.writev = self.written(os.writev, 0)
        os.pwritev = self.written(os.pwritev, 2)
        os.fsync = self.synced(os.fsync)
        os.fdatasync = self.synced(os.fdatasync)
        Writes.begin = lambda _, fd, view, at: Late(fd, view, at)  # type: ignore[assignment,method-assign,return-value]


@dataclass(frozen=True)
class Late:
    """A write that was begun and that the disk puts off for as long as it may."""

    fd: int
    view: memoryview
    at: int

    def end(self) -> int:
        """Do it, so that it is written down as any other."""
        return os.pwritev(self.fd, [self.view], self.at, os.RWF_DSYNC)


@dataclass(frozen=True)
class Lost:
    """What a power loss took: ranges that were not synced, and names."""

    ranges: int
    names: int


def lose(data: Path, record: Path, dice: random.Random, *, spare: Iterable[str] = ("index.db",)) -> Lost:
    """Take from the files below `data` what the record does not prove to be on the disk."""
    writes: dict[int, list[tuple[int, int, int, bytes]]] = defaultdict(list)
    synced: dict[int, int] = defaultdict(int)
    names: dict[int, set[str]] = defaultdict(set)
    covered: set[tuple[int, int]] = set()
    for line in record.read_text().split("\n")[:-1]:
        kind, number, inode, *rest = line.split(" ")
        if kind == "W":
            old = b"" if rest[2] == "-" else bytes.fromhex(rest[2])
            writes[int(inode)].append((int(number), int(rest[0]), int(rest[1]), old))
        elif kind == "C":
            covered.add((int(inode), int(number)))
        elif kind == "S":
            synced[int(inode)] = max(synced[int(inode)], int(number))
        else:
            names[int(inode)].update(rest)
    ranges = gone = 0
    for folder, _, files in os.walk(data):
        known = names[os.stat(folder).st_ino]
        for name in files:
            path = Path(folder) / name
            if name.startswith(tuple(spare)):
                continue
            inode = path.stat().st_ino
            unsynced = [each for each in writes[inode] if each[0] > synced[inode] and (inode, each[0]) not in covered]
            if inode in writes and name not in known and dice.random() < 0.5:
                path.unlink()
                gone += 1
                continue
            with path.open("r+b") as file:
                # newest first, so that what was overwritten twice ends as the oldest of them
                for _, offset, length, old in sorted(unsynced, reverse=True):
                    _take_away(file.fileno(), offset, length, old, dice)
                    ranges += 1
    record.unlink()
    return Lost(ranges, gone)


def watcher(folder: Path) -> Path | None:
    """The library that watches SQLite's log, made in `folder`; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    made = folder / "walsync.so"
    source = Path(__file__).with_name("walsync.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"], check=True)
    return made


def lose_log(index: Path, record: Path, dice: random.Random) -> int:
    """Take from SQLite's log what no sync covered, from a point on that chance chooses; how many writes went."""
    log = Path(f"{index}-wal")
    Path(f"{index}-shm").unlink(missing_ok=True)  # memory, not disk
    lines = record.read_text().split("\n")[:-1] if record.exists() else []
    record.unlink(missing_ok=True)
    if not log.exists():
        return 0
    inode = log.stat().st_ino
    writes, synced = list[tuple[int, int, int]](), 0
    for line in lines:
        kind, number, of, *rest = line.split(" ")
        if int(of) == inode and kind == "W":
            writes.append((int(number), int(rest[0]), int(rest[1])))
        elif int(of) == inode:
            synced = max(synced, int(number))
    unsynced = [each for each in writes if each[0] > synced]
    lost = unsynced[dice.randrange(len(unsynced)) :] if unsynced else []
    with log.open("r+b") as file:
        for _, offset, length in lost:
            os.pwrite(file.fileno(), bytes(length), offset)
    return len(lost)


def _take_away(fd: int, offset: int, length: int, old: bytes, dice: random.Random) -> None:
    match dice.randrange(4):
        case 0:  # it happened to be on the disk
            return
        case 1:  # the end of it was not
            offset, length, old = offset + length // 2, length - length // 2, old[length // 2 :]
        case 2 if not old and os.fstat(fd).st_size <= offset + length:
            os.ftruncate(fd, offset)
            return
    os.pwrite(fd, old or bytes(length), offset)


def main() -> None:
    """The server with a recorder in it."""
    Recorder(Path(sys.argv[1]), deaf=bool(os.environ.get("DEAF_DISK")), seed=time.time_ns()).install()
    from pacs.server.cli import main as serve

    sys.argv = ["m3dicom", *sys.argv[2:]]
    sys.exit(serve())


if __name__ == "__main__":
    main()
