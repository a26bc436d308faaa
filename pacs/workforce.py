"""Who takes which tasks, and how much waits for them: what a scaler, `m3dicom doctor` and the viewer go by.

A worker says every few seconds that it is there; one that was killed is forgotten when it was silent for long. On
SQLite there are no workers but those of the server's own process, and nothing is written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection

from pacs.errors import ArchiveError
from pacs.index import workers
from pacs.index.engine import Index

SEEN_EVERY_S = 5.0
GONE_AFTER_S = 30.0


@dataclass(frozen=True)
class Post:
    """A worker process: its name, the plug-ins it takes with the version of each, its devices in words, how many tasks
    it does at one time."""

    name: str
    plugins: Mapping[str, str]
    device: str
    slots: int

    def takes(self, plugin: str, version: str) -> bool:
        """Whether it takes tasks that need this version of the plug-in ("" = any)."""
        return plugin in self.plugins and version in ("", self.plugins[plugin])


@dataclass(frozen=True)
class Queued:
    """The tasks of one plug-in that have not ended, those that were given up, and who takes them.

    waiting: could run now; oldest_s: how long the first of these has waited, 0.0 where none does; later: not due or not
    ready; running: a worker has them; dead: given up after their last attempt; stranded: of those that wait, the ones
    that no worker which is there can take; why: what they wait for, in words.
    """

    plugin: str
    waiting: int
    oldest_s: float
    later: int
    running: int
    dead: int
    posts: tuple[Post, ...]
    stranded: int = 0
    why: str = ""


def awaited(plugin: str, version: str, posts: Sequence[Post]) -> str:
    """What a task waits for besides its turn: "" where one of the workers takes it."""
    if any(post.takes(plugin, version) for post in posts):
        return ""
    there = sorted({post.plugins[plugin] for post in posts if plugin in post.plugins})
    if there:
        has = "workers that are there have" if len(there) > 1 else "workers have"
        return f"it was made for version {version} of {plugin}, and the {has} {', '.join(there)}"
    return f"no worker takes tasks of {plugin}"


class Workforce:
    """The workers of one archive and what waits for them. Safe from any thread; `now` is in Unix seconds."""

    def __init__(self, index: Index, *, shared: bool) -> None:
        """`shared`: there are workers of other processes."""
        self._index = index
        self._shared = shared
        self._here: dict[str, Post] = {}

    def attend(self, post: Post, now: float) -> None:
        """Say that a worker is there. Raises Unavailable."""
        self._here[post.name] = post
        if not self._shared:
            return
        plugins = orjson.dumps(dict(post.plugins)).decode()
        values = {"plugins": plugins, "device": post.device, "slots": post.slots, "seen_at": now}

        def work(conn: Connection) -> None:
            workers.seen(conn, post.name, values)
            workers.silent(conn, now - 10 * GONE_AFTER_S)  # killed long ago

        self._index.transact(work)

    def leave(self, name: str) -> None:
        """Say that a worker is gone. Raises Unavailable."""
        if self._here.pop(name, None) is not None and self._shared:
            self._index.transact(lambda conn: workers.gone(conn, name))

    def present(self, now: float) -> tuple[Post, ...]:
        """The workers that are there."""
        if not self._shared:
            return tuple(self._here.values())
        with self._index.read() as conn:
            found = workers.present(conn, now - GONE_AFTER_S)
        return tuple(Post(row["name"], orjson.loads(row["plugins"]), row["device"], row["slots"]) for row in found)

    def queues(self, now: float) -> tuple[Queued, ...]:
        """By plug-in: those that have tasks or workers."""
        posts = self.present(now)
        with self._index.read() as conn:
            rows: dict[str, list[Mapping[str, Any]]] = {}
            for row in workers.queues(conn, now):
                rows.setdefault(row["plugin"], []).append(row)
            dead = workers.dead(conn)
        plugins = sorted({*rows, *dead, *(plugin for post in posts for plugin in post.plugins)})
        return tuple(_queued(plugin, rows.get(plugin, ()), dead.get(plugin, 0), posts, now) for plugin in plugins)


def _queued(plugin: str, lanes: Sequence[Mapping[str, Any]], dead: int, posts: Sequence[Post], now: float) -> Queued:
    """One plug-in, of which each lane is what needs one version."""
    oldest = min((row["oldest"] for row in lanes if row["oldest"] is not None), default=now)
    left = [(row, words) for row in lanes if row["waiting"] and (words := awaited(plugin, row["needs_version"], posts))]
    return Queued(
        plugin=plugin,
        waiting=sum(int(row["waiting"]) for row in lanes),
        oldest_s=max(0.0, now - oldest),
        later=sum(int(row["later"]) for row in lanes),
        running=sum(int(row["running"]) for row in lanes),
        dead=dead,
        posts=tuple(post for post in posts if plugin in post.plugins),
        stranded=sum(int(row["waiting"]) for row, _ in left),
        why="; ".join(dict.fromkeys(words for _, words in left)),
    )


class Attendance:
    """A thread that says again and again that a worker is there, until it is closed."""

    def __init__(self, workforce: Workforce, post: Callable[[], Post], every_s: float = SEEN_EVERY_S) -> None:
        self._workforce = workforce
        self._post = post
        self._every_s = every_s
        self._end = threading.Event()
        self._say()
        self._thread = threading.Thread(target=self._run, name="attendance", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self._say()

    def _say(self) -> None:
        with suppress(ArchiveError):  # the database is away: it is said again
            self._workforce.attend(self._post(), time.time())

    def close(self) -> None:
        """Say that it is gone."""
        self._end.set()
        self._thread.join()
        with suppress(ArchiveError):
            self._workforce.leave(self._post().name)
