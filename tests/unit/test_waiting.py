"""Connections that wait for news: what they cost while there is none, and what wakes them."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from dicomweb import websocket
from pacs.server import cli


def looks(monkeypatch: pytest.MonkeyPatch, ends: int, happens: dict[int, str], version: int | None = 7) -> list[int]:
    """After how many polls it was looked for news, until the server stops; `happens` says what did before which."""
    committed, polls = version, 0
    archive: Any = SimpleNamespace(
        events=SimpleNamespace(version=1, closed=False), index=SimpleNamespace(version=lambda: committed)
    )

    async def poll(_: float) -> None:
        nonlocal committed, polls
        polls += 1
        if happens.get(polls) == "told":
            archive.events.version += 1
        if happens.get(polls) == "committed" and committed is not None:
            committed += 1
        archive.events.closed = polls >= ends

    async def follow() -> list[int]:
        return [polls async for _ in websocket.news(archive)]

    monkeypatch.setattr(anyio, "sleep", poll)
    monkeypatch.setattr(websocket, "POLL_S", 1)
    monkeypatch.setattr(websocket, "LOOK_S", 5)
    monkeypatch.setattr(websocket, "SURE_S", 20)
    return anyio.run(follow)


def test_an_index_in_which_nothing_happens_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(monkeypatch, 41, {}) == [0, 20, 40]


def test_what_happens_here_or_elsewhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(monkeypatch, 19, {3: "told", 9: "committed"}) == [0, 3, 13]


def test_an_index_that_does_not_tell_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(monkeypatch, 12, {}, version=None) == [0, 5, 10]


def test_a_refused_handshake_is_no_error_of_the_server() -> None:
    said = [logging.makeLogRecord({"msg": text}) for text in (
        "ASGI callable returned without completing handshake.", "Exception in ASGI application",
    )]  # fmt: skip
    assert [cli.is_worth_saying(record) for record in said] == [False, True]
