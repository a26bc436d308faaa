"""The process between a plug-in's process and a command: it ends with neither more nor less than all of the command.

`python -m analysis.command_guard` reads one line of JSON, the order, and runs its command. It hands on what the command
says of its progress, watches the memory of everything that the command started, and when its own standard input is
closed (the task was cancelled or ran out of time, or the worker was killed) it ends all of that, and calls the `stop`
command, which is how a container is told. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOOK_S = 0.1
OUTPUT_LOOK_S = 0.5
STOP_S = 30.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None)


def descendants(pid: int) -> list[int]:
    """Every process that a process has started, directly or not; what lost its parent comes to a subreaper."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def children(pid: int) -> list[int]:
    """Every process that a process has started itself, or that came to it; none once it is gone."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except OSError:
        pass
    return found


def memory_mb(pids: list[int]) -> int:
    """Their resident memory."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return pages * _PAGE >> 20


def end_all() -> None:
    """Kill what was started, until nothing is left, however it tries to get away."""
    while True:
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def say(**message: Any) -> None:
    """One line to the plug-in's process, which may be gone."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except OSError:
        return


def written(folder: Path, most: int) -> tuple[int, int]:
    """How many files and folders there are below a folder, and their bytes; looks no further once there are `most`."""
    number = size = 0
    below = [os.fspath(folder)]
    while below and number <= most:
        try:
            with os.scandir(below.pop()) as entries:
                for entry in entries:
                    number += 1
                    size += entry.stat(follow_symlinks=False).st_size
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                    if number > most:
                        break
        except OSError:  # it goes on writing and removing meanwhile
            continue
    return number, size


class Written:
    """Watches what a command writes below its folder, beside what was there when it began."""

    def __init__(self, folder: Path, files: int, size: int) -> None:
        self._folder = folder
        self._files, self._size = written(folder, 1 << 62)
        self._files += files
        self._size += size

    def too_much(self) -> str:
        """ "files" or "size" where it is more than allowed, else ""."""
        number, size = written(self._folder, self._files)
        return "files" if number > self._files else "size" if size > self._size else ""


def start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    """The command, under way. Raises OSError."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with open(order["stderr"], "wb") as errors:
        return subprocess.Popen(
            order["command"],
            cwd=order["cwd"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            preexec_fn=partial(_bounded, order["output_bytes"]),
        )


def _bounded(most_bytes: int) -> None:
    """In the command's process before it is the command: it dies with us, and no file that it writes fills the disk."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


def watch(process: subprocess.Popen[bytes], limit_mb: int, output: Written) -> dict[str, Any]:
    """How it ended: {"status": …} or {"killed": "memory", "files", "size" or "host"}."""
    assert process.stdout is not None
    heard, rest = process.stdout.fileno(), b""
    listening = [0, heard]
    look_at = 0.0
    while True:
        readable, _, _ = select.select(listening, [], [], LOOK_S)
        if 0 in readable and not os.read(0, 4096):
            return {"killed": "host"}
        if heard in readable:
            chunk = os.read(heard, 1 << 16)
            if not chunk:
                listening = [0]
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b'{"progress"') and len(line) < 1000:
                    os.write(1, line + b"\n")
            rest = rest[-1000:]
        if process.poll() is not None:
            ended = process.returncode in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ)  # by itself, or as its shell says it
            over = "size" if ended else output.too_much()
            return {"killed": over} if over else {"status": process.returncode}
        if time.monotonic() > look_at:
            if over := output.too_much():
                return {"killed": over}
            look_at = time.monotonic() + OUTPUT_LOOK_S
        if memory_mb(descendants(os.getpid())) > limit_mb:
            return {"killed": "memory"}


def main() -> None:
    """Run one order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    order = json.loads(_line())
    output = Written(Path(order["stderr"]).parent, order["output_files"] + 1, order["output_bytes"])  # and "stderr"
    try:
        process = start(order)
    except OSError as error:
        say(end={"error": error.strerror})
        return
    end = watch(process, int(order["memory_mb"]), output)
    end_all()
    if order["stop"] and "killed" in end:
        silent = subprocess.DEVNULL
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(order["stop"], stdin=silent, stdout=silent, stderr=silent, timeout=STOP_S, check=False)
    say(end=end)


def _line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            sys.exit(1)
        line += chunk
    return line


if __name__ == "__main__":
    main()
