"""`m3dicom plugin`: the plug-ins that are installed, a package to start one from, and a judge for any of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.registry import Installed
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """The verb `plugin` with `list`, `new` and `check`."""
    parser = verbs.add_parser("plugin", help="analysis plug-ins: list them, begin one, judge one")
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    listed = acts.add_parser("list", help="what is installed, and what cannot be loaded and why")
    listed.set_defaults(run=_list)
    new = acts.add_parser("new", help="write a working package with tests to start from")
    new.add_argument("name", metavar="NAME", help="its id and the name of its package, like lung-volume")
    new.add_argument("--in", dest="folder", metavar="DIR", type=Path, default=Path(), help="where (here)")
    new.set_defaults(run=_new)
    check = acts.add_parser("check", help="run one on phantoms and odd inputs, and judge what it does")
    check.add_argument(
        "plugin", metavar="PLUGIN", help="a plug-in's id, an installed distribution, or module:attribute"
    )
    check.add_argument("--data", metavar="DIR", type=Path, help="DICOM files of yours that have to give a result")
    check.add_argument("--device", choices=("cpu", "gpu", "auto"), default="cpu", help="where arrays live (cpu)")
    check.set_defaults(run=_check)


def _list(_: argparse.Namespace) -> int:
    from analysis.registry import Registry

    registry = Registry.load()
    for installed in registry:
        manifest = installed.manifest
        print(f"{manifest.id}  {manifest.version}  {manifest.title}  ({installed.target})")
    for broken in registry.broken:
        print(f"{broken.name}  cannot be used: {broken.error}", file=sys.stderr)
    return 1 if registry.broken else 0


def _new(chosen: argparse.Namespace) -> int:
    from analysis.kit import new

    written = new.write(chosen.name, chosen.folder)
    for path in written:
        print(path)
    root = chosen.folder / chosen.name
    print(
        f"\nIt works as it is. Next:\n  {sys.executable} -m pip install -e {root}\n  m3dicom plugin check {chosen.name}"
    )
    return 0


def _check(chosen: argparse.Namespace) -> int:
    """0 when nothing failed, 1 when something did, 2 when there is no such plug-in."""
    from analysis.kit.check import check

    found = _find(chosen.plugin)
    if not found:
        print(f"m3dicom: no plug-in {chosen.plugin} is installed here", file=sys.stderr)
        return 2
    own = _instances(chosen.data) if chosen.data else ()
    failures = 0
    marks = {"ok": "  ok  ", "advice": "advice", "failed": "FAILED"}
    for installed in found:
        advice = 0
        for finding in check(installed, own, chosen.device):
            print(f"{marks[finding.verdict]}  {finding.what}: {finding.words}", flush=True)
            failures += finding.verdict == "failed"
            advice += finding.verdict == "advice"
        print(f"{installed.id}: {failures} failed, {advice} to think about")
    return 1 if failures else 0


def _find(name: str) -> list[Installed]:
    """The plug-ins of that id, of that distribution, or at "module:attribute"."""
    from importlib.metadata import PackageNotFoundError, distribution

    from analysis.registry import GROUP, Registry

    if ":" in name:
        registry = Registry.load({name: name})
    else:
        registry = Registry.load()
        one = registry.get(name)
        if one is not None:
            return [one]
        try:
            points = distribution(name).entry_points.select(group=GROUP)
        except PackageNotFoundError:
            return []
        registry = Registry.load({point.name: point.value for point in points})
    for broken in registry.broken:
        print(f"m3dicom: {broken.name} cannot be used: {broken.error}", file=sys.stderr)
    return list(registry)


def _instances(folder: Path) -> list[Any]:
    """Every DICOM file below the folder, whole."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from pacs.errors import InvalidInput

    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                found.append(dcmread(path))
            except (InvalidDicomError, OSError):
                continue
    if not found:
        raise InvalidInput(f"no DICOM file below {folder}")
    return found
