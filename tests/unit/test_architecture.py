"""The arrows of the house: who may import whom, measured on the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pacs", "dicomweb", "analysis", "viewer", "conformance")

# Longest prefix rules. A module may import what its row names, and itself.
ALLOWED: dict[str, tuple[str, ...]] = {
    "pacs.errors": (),
    "pacs.uids": ("pacs.errors",),
    "pacs.digest": ("pacs.native",),
    "pacs.events": (),
    "pacs.settings": ("pacs.errors",),
    "pacs.native": (),  # knows bytes only
    "pacs.dicom": ("pacs.errors", "pacs.uids", "pacs.native"),
    "pacs.buffers": (),  # memory only
    "pacs.spool": ("pacs.errors", "pacs.digest", "pacs.dicom", "pacs.buffers"),
    "pacs.storage": (
        "pacs.errors",
        "pacs.uids",
        "pacs.digest",
        "pacs.dicom",
        "pacs.spool",
        "pacs.buffers",
        "pacs.native",
    ),
    "pacs.index": ("pacs.errors", "pacs.uids", "pacs.dicom", "pacs.events", "pacs.native"),
    "pacs.known_aes": ("pacs.errors", "pacs.settings"),
    "pacs.auth": ("pacs.errors", "pacs.index", "pacs.settings", "pacs.known_aes"),
    "pacs.audit": ("pacs.errors", "pacs.index", "pacs.auth"),
    "pacs.decoding": ("pacs.errors", "pacs.dicom"),
    "pacs.dimse": ("pacs",),
    "pacs.server": ("pacs", "dicomweb", "analysis", "viewer"),
    "pacs": ("pacs",),  # the verbs: ingest, query, retrieve, …
    "dicomweb": ("pacs",),
    "analysis.algorithms": ("analysis.algorithms",),
    "analysis": ("pacs", "analysis"),
    "viewer": (),
    "conformance": (),  # judges from outside: it may know nothing of ours
}
NOBODY_IMPORTS = ("pacs.server",)
VERBS_MAY_NOT = ("pacs.dimse", "pacs.server", "dicomweb", "analysis", "viewer", "conformance")
OUTSIDE_ALGORITHMS = {"numpy", "scipy", "skimage", "sklearn", "cupy", "cupyx", "meshoptimizer", "cc3d"}


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "node_modules" in path.parts or path.name == "hatch_build.py":
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(name: str, path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide the arrows"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rule(name: str) -> tuple[str, ...]:
    best = max((row for row in ALLOWED if name == row or name.startswith(row + ".")), key=len)
    return (*ALLOWED[best], best)


@pytest.mark.parametrize(("name", "path"), modules(), ids=[name for name, _ in modules()])
def test_arrows(name: str, path: Path) -> None:
    ours = {target for target in imports(name, path) if target.split(".")[0] in PACKAGES}
    allowed = rule(name)
    for target in sorted(ours):
        assert any(target == row or target.startswith(row + ".") for row in allowed), f"{name} must not import {target}"
        if not name.startswith("pacs.server"):
            assert not target.startswith(NOBODY_IMPORTS), f"nobody imports the composition root: {name} does"
        is_verb = name.startswith("pacs.") and not name.startswith(("pacs.dimse", "pacs.server"))
        assert not (is_verb and target.startswith(VERBS_MAY_NOT)), f"{name} must not know {target}"


def test_algorithms_know_arrays_only() -> None:
    import sys

    for name, path in modules():
        if name.startswith("analysis.algorithms"):
            for target in imports(name, path):
                top = target.split(".")[0]
                known = top in OUTSIDE_ALGORITHMS or top in sys.stdlib_module_names or top == "analysis"
                assert known, f"{name} must not import {target}"
