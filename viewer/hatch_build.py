"""Builds the viewer: for the project's build hook (hatch_build.py), and as a script for the Makefile.

npm runs only where the sources in viewer/web differ from those that viewer/static was built from. Set
M3DICOM_SKIP_VIEWER=1 to install a server without a viewer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WEB = HERE / "web"
STATIC = HERE / "static"
STAMP = STATIC / ".sources"
SKIP = "M3DICOM_SKIP_VIEWER"
OLDEST_NODE = (20, 19)
NO_SOURCES = {"node_modules", "test", "coverage"}


class ViewerNotBuilt(RuntimeError):
    """The viewer cannot be built here, and why."""


def digest() -> str:
    """SHA-256 over names and contents of everything that the build reads."""
    found = hashlib.sha256()
    for path in sorted(WEB.rglob("*")):
        name = path.relative_to(WEB)
        if path.is_file() and name.parts[0] not in NO_SOURCES:
            content = path.read_bytes()
            found.update(f"{name.as_posix()}\0{len(content)}\0".encode())
            found.update(content)
    return found.hexdigest()


def is_current() -> bool:
    """Whether viewer/static was built from the sources that are here."""
    return STAMP.is_file() and (STATIC / "index.html").is_file() and STAMP.read_text().strip() == digest()


def build(*, force: bool = False) -> bool:
    """True where the viewer was built, False where it was current. Raises ViewerNotBuilt, in words."""
    if not WEB.is_dir():  # an sdist may carry the built viewer alone
        if (STATIC / "index.html").is_file():
            return False
        raise ViewerNotBuilt("neither viewer/web (the sources) nor viewer/static (the built viewer) is here")
    if not force and is_current():
        return False
    npm = _npm()
    environment = {**os.environ, "CI": "1", "NO_COLOR": "1"}
    for arguments in (["ci", "--ignore-scripts", "--no-audit", "--no-fund"], ["run", "build"]):
        _run([npm, *arguments], environment)
    if not (STATIC / "index.html").is_file():
        raise ViewerNotBuilt("the build ended without viewer/static/index.html")
    STAMP.write_text(digest() + "\n")
    return True


def _npm() -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise ViewerNotBuilt(
            f"the viewer is built with Node.js, and {'node' if node is None else 'npm'} is not on the PATH. "
            f"Install Node.js {OLDEST_NODE[0]}.{OLDEST_NODE[1]} or later, or set {SKIP}=1 to do without a viewer."
        )
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    version = tuple(int(part) for part in said.lstrip("v").split(".")[:2])
    if version < OLDEST_NODE:
        raise ViewerNotBuilt(
            f"Node.js {said} is too old for the viewer: {OLDEST_NODE[0]}.{OLDEST_NODE[1]} or later is needed. "
            f"Set {SKIP}=1 for a server without a viewer."
        )
    return npm


def _run(command: list[str], environment: dict[str, str]) -> None:
    ran = subprocess.run(
        command, cwd=WEB, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ran.returncode != 0:
        words = " ".join(["npm", *command[1:]])
        raise ViewerNotBuilt(f"`{words}` in viewer/web failed:\n{ran.stdout[-4000:]}")


def build_wanted() -> None:
    """Build, unless the environment says not to: what the build hook of the project does first."""
    if os.environ.get(SKIP, "") not in ("", "0"):
        print(f"The viewer is left out: {SKIP} is set.", file=sys.stderr)
        return
    build()


def main() -> int:
    """Build from the command line; the exit status."""
    try:
        built = build(force="--force" in sys.argv[1:])
    except ViewerNotBuilt as error:
        print(f"The viewer is not built: {error}", file=sys.stderr)
        return 1
    print("The viewer is built." if built else "The viewer is current.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
