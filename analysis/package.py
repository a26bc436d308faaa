"""Owns which code a plug-in is: its distribution, version, and a digest over the files of its package."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from analysis.api import Plugin
from analysis.command import CommandPlugin

_CODE = frozenset({".py", ".pyx", ".so", ".cu", ".npz", ".npy", ".json", ".toml", ".onnx"})


@dataclass(frozen=True)
class Package:
    """A distribution, its version ("" where it is not installed as one), and the SHA-256 of its package's files."""

    name: str
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} sha256:{self.digest}".replace("  ", " ")


def package_of(plugin: Plugin) -> Package:
    """The package that a plug-in comes from; of a command, its folder."""
    if isinstance(plugin, CommandPlugin):
        return Package(plugin.manifest.id, plugin.manifest.version, plugin.package_digest())
    return _package(type(plugin).__module__.partition(".")[0])


@cache
def _package(module: str) -> Package:
    names = importlib.metadata.packages_distributions().get(module, [])
    name, version = module, ""
    if names:
        name = sorted(names)[0]
        version = importlib.metadata.version(name)
    digest = hashlib.sha256()
    for path, relative in _files(module):
        digest.update(f"{relative}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return Package(name, version, digest.hexdigest())


def _files(module: str) -> Iterator[tuple[Path, str]]:
    """What a module of the first level is made of, in a stable order: code, models and tables, no caches."""
    found = sys.modules[module]
    folders = [Path(each) for each in getattr(found, "__path__", ())]
    if not folders and found.__file__:
        yield Path(found.__file__), Path(found.__file__).name
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in _CODE and path.is_file() and "__pycache__" not in path.parts:
                yield path, path.relative_to(folder).as_posix()
