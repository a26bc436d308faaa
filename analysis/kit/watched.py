"""The plug-in under test inside its child process, with an eye on what contract 1 forbids: network, disk, processes.

`python -m analysis.child` loads "analysis.kit.watched:plugin"; the plug-in that is meant stands in the environment.
What it may not do ends the run with an error whose name tells what it was, as every error of a plug-in would.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from analysis.api import Plugin
from analysis.command import CommandPlugin
from analysis.registry import resolve

VARIABLE = "PLUGIN_UNDER_TEST"
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TouchesTheNetwork(Exception):
    """The plug-in opened or bound a socket while it ran."""


class WritesToTheDisk(Exception):
    """The plug-in opened a file for writing, or renamed or removed one, while it ran."""


class StartsAProcess(Exception):
    """The plug-in started another process while it ran."""


class Watched:
    """The plug-in with its own manifest and parameters; `run` is watched."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self.manifest = plugin.manifest
        self.params = plugin.params
        self._running = False
        self._offence: Exception | None = None
        sys.addaudithook(self._heard)

    def run(self, ctx: Any, params: Any) -> None:
        """Do the work of one task under observation. What it may not do counts, too, where it catches the error."""
        self._running, self._offence = True, None
        try:
            self._plugin.run(ctx, params)
        finally:
            self._running = False
            if self._offence is not None:
                raise self._offence

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._running:
            return
        if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
            self._offends(TouchesTheNetwork())
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn"):
            self._offends(StartsAProcess())
        if event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir") or (event == "open" and _written(*arguments)):
            if any("__pycache__" in str(argument) for argument in arguments[:2]):
                return  # a module imported for the first time: the interpreter's own business
            self._offends(WritesToTheDisk())

    def _offends(self, offence: Exception) -> NoReturn:
        self._offence = self._offence or offence
        raise offence


def _written(path: Any, mode: Any, flags: Any) -> bool:
    if isinstance(path, int) or str(path).startswith("/dev/"):
        return False
    return bool(set(str(mode or "")) & set("wax+")) or bool(int(flags or 0) & _WRITES and mode is None)


def __getattr__(name: str) -> Any:
    if name == "plugin":
        plugin = resolve(os.environ[VARIABLE])
        # A command is run by the host itself, with files: what it touches is another process's.
        return plugin if isinstance(plugin, CommandPlugin) else Watched(plugin)
    raise AttributeError(name)
