"""`m3dicom plugin`: the plug-ins that are installed, a package to start one from, and a judge for any of them."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacs.server.commands import common

if TYPE_CHECKING:
    from analysis.registry import Installed
    from pacs.server.commands import Verbs


def add(verbs: Verbs) -> None:
    """The verb `plugin` with `list`, `new` and `check`."""
    parser = verbs.add_parser("plugin", help="analysis plug-ins: list them, begin one, judge one")
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    listed = acts.add_parser("list", help="what is installed, and what cannot be loaded and why")
    common(listed)
    listed.set_defaults(run=_list)
    new = acts.add_parser("new", help="write a working package with tests to start from")
    new.add_argument("name", metavar="NAME", help="its id and the name of its package, like lung-volume")
    new.add_argument("--in", dest="folder", metavar="DIR", type=Path, default=Path(), help="where (here)")
    new.set_defaults(run=_new)
    check = acts.add_parser("check", help="run one on phantoms and odd inputs, and judge what it does")
    check.add_argument(
        "plugin",
        metavar="PLUGIN",
        help="a plug-in's id, a distribution, module:attribute, or a command's folder",
    )
    check.add_argument("--data", metavar="DIR", type=Path, help="DICOM files of yours that have to give a result")
    check.add_argument("--device", choices=("cpu", "gpu", "auto"), default="cpu", help="where arrays live (cpu)")
    check.set_defaults(run=_check)
    added = acts.add_parser("add-command", help="install a folder with plugin.toml and a command, or a container's")
    common(added)
    added.add_argument("folder", metavar="FOLDER", type=Path, help="what is copied")
    added.set_defaults(run=_add_command)
    removed = acts.add_parser("remove-command", help="remove one that was added so")
    common(removed)
    removed.add_argument("id", metavar="ID", help="its plug-in id")
    removed.set_defaults(run=_remove_command)


def _commands(chosen: argparse.Namespace) -> Path:
    from pacs import settings as settings_module

    return settings_module.load(chosen.config, os.environ, {"data": chosen.data}).commands


def _add_command(chosen: argparse.Namespace) -> int:
    from analysis.command import CommandPlugin
    from analysis.registry import Registry
    from pacs.errors import InvalidInput

    plugin, home = CommandPlugin(chosen.folder), _commands(chosen)
    target = home / plugin.manifest.id
    known = Registry.load(commands=home).get(plugin.manifest.id)
    if known is not None and not known.target.endswith(f":{target.resolve()}"):
        raise InvalidInput(f"the id {plugin.manifest.id} is taken by {known.target}")
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".{plugin.manifest.id}.{os.getpid()}"
    shutil.copytree(chosen.folder, draft, symlinks=True)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    print(f"{plugin.manifest.id} {plugin.manifest.version} is in {target}; start server and workers again")
    return 0


def _remove_command(chosen: argparse.Namespace) -> int:
    from pacs.errors import NotFound

    target = _commands(chosen) / chosen.id
    if not (target / "plugin.toml").is_file() or target.parent != _commands(chosen):
        raise NotFound("no such command was added", about=chosen.id)
    shutil.rmtree(target)
    print(f"{chosen.id} is removed; start server and workers again")
    return 0


def _list(chosen: argparse.Namespace) -> int:
    from analysis.registry import Registry

    registry = Registry.load(commands=_commands(chosen))
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

    if (Path(name) / "plugin.toml").is_file():
        name = f"command:{Path(name).resolve()}"
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
