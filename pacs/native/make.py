"""Compiles the hot path: `python -m pacs.native.make` for installations, and for the build hook of wheels.

With the system's `cc`, else with the C compiler of the package `ziglang`. The name of the library tells from which
sources it was made, so an old one is never loaded. Only the standard library is needed here.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILT = HERE / "lib"
FLAGS = (
    "-std=c11",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-Wall",
    "-Wextra",
)


class NotBuilt(RuntimeError):
    """The library cannot be built here, and why."""


def sources() -> list[Path]:
    """The files in C that make the library."""
    return sorted(HERE.glob("*.c"))


def digest() -> str:
    """What tells these sources, this machine's kind and these flags from others."""
    found = hashlib.sha256(repr((FLAGS, sys.platform, platform.machine())).encode())
    for path in (*sources(), *sorted(HERE.glob("*.h"))):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def target() -> Path:
    """Where the library of these sources belongs."""
    return BUILT / f"libm3dicom-{digest()}.so"


def library() -> Path | None:
    """The library of these sources, or None where it was not built."""
    path = target()
    return path if path.is_file() else None


def compiler() -> list[str]:
    """The command that compiles C. Raises NotBuilt where there is none."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if (found := shutil.which(name)) is not None:
            return [found]
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NotBuilt("no C compiler: install one (Debian: gcc and libc6-dev), or the Python package ziglang")


def build(*, force: bool = False, flags: tuple[str, ...] = (), path: Path | None = None) -> Path:
    """The library, compiled if it was not. Raises NotBuilt.

    With `path` it goes there, with further `flags`, and replaces nothing.
    """
    goal = path or target()
    if goal.is_file() and not force:
        return goal
    goal.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=goal.parent) as folder:
        draft = Path(folder) / goal.name
        command = [*compiler(), *FLAGS, *flags, "-o", str(draft), *map(str, sources())]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise NotBuilt(f"`{shlex.join(command[:2])}` cannot be run: {error.strerror}") from error
        if ran.returncode != 0:
            raise NotBuilt(f"`{shlex.join(command)}` failed:\n{ran.stderr[-2000:]}")
        draft.replace(goal)  # whoever has the old one loaded keeps it
    if path is None:
        for old in BUILT.glob("libm3dicom-*.so"):
            if old != goal:
                old.unlink(missing_ok=True)
    return goal


def main() -> int:
    """Build from the command line; the exit status, 0 also where everything will run in Python instead."""
    try:
        build(force="--force" in sys.argv[1:])
    except (NotBuilt, OSError) as error:
        print(f"The hot path is not compiled, and will run in Python: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
