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
    "-pthread",
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


def compilers() -> list[list[str]]:
    """The commands that may compile C here, the likeliest first. Raises NotBuilt where there is none."""
    found = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else []
    found += [[path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name)) is not None]
    if find_spec("ziglang") is not None:
        found.append([sys.executable, "-m", "ziglang", "cc"])
    if not found:
        raise NotBuilt("no C compiler: install one (Debian: gcc and libc6-dev), or the Python package ziglang")
    return found


def build(*, force: bool = False) -> Path:
    """The library, compiled if it was not, by the first compiler that can. Raises NotBuilt or OSError."""
    goal = target()
    if goal.is_file() and not force:
        return goal
    BUILT.mkdir(parents=True, exist_ok=True)
    said = []
    with tempfile.TemporaryDirectory(dir=BUILT) as folder:
        draft = Path(folder) / goal.name
        for compiler in compilers():
            command = [*compiler, *FLAGS, "-o", str(draft), *map(str, sources())]
            try:
                ran = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                said.append(f"`{shlex.join(compiler)}` cannot be run: {error.strerror}")
                continue
            if ran.returncode == 0:
                draft.replace(goal)  # whoever has an old one loaded keeps it
                break
            said.append(f"`{shlex.join(command)}` failed:\n{ran.stderr[-2000:]}")
        else:
            raise NotBuilt("\n".join(said))
    for old in BUILT.glob("libm3dicom-*.so"):
        if old != goal:
            old.unlink(missing_ok=True)
    return goal


def main() -> int:
    """Build from the command line; the exit status: 0 also where Python will do the work, unless with `--or-fail`."""
    try:
        build(force="--force" in sys.argv[1:])
    except (NotBuilt, OSError) as error:
        if "--or-fail" in sys.argv[1:]:
            return 1
        print(f"The part in C is not compiled, Python will do its work: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
