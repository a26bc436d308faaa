"""Subcommands of `m3dicom` beyond starting the server: a module each, which adds its verbs to the parser.

A module has `add(verbs)`: it makes its parsers and sets `run`, a function of the parsed arguments that returns the exit
status. Modules import what is heavy within `run` only, so that `m3dicom --help` is quick.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

MODULES: tuple[str, ...] = (
    "echo",
    "find",
    "store",
    "get",
    "move",
    "commit",
    "commitments",
    "forward",
    "import_",
    "rebuild",
    "scrub",
    "backup",
    "doctor",
    "correct",
    "aside",
    "retention",
    "plugin",
    "scale",
    "tasks",
    "analyze",
    "accuracy",
)
"""In the order in which `m3dicom --help` lists them."""


def add_all(verbs: Verbs) -> None:
    """Every subcommand of every module, added to the parser."""
    for name in MODULES:
        import_module(f"{__name__}.{name}").add(verbs)


def common(parser: argparse.ArgumentParser) -> None:
    """The options of every verb that works on an archive: where it is and how it is set up."""
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder for objects, index and spool")
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings as TOML (docs/settings.md)")
