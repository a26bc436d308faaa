"""From an address to what answers there: a tree of path segments, looked through once for any number of resources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from dicomweb.answers import Answer

REST = ":path}"
"""Ends the name of a parameter that takes all that follows, slashes too."""


@dataclass(slots=True)
class _Node:
    """What may follow a segment: fixed names first, then a parameter, then a parameter that takes the rest."""

    named: dict[str, _Node] = field(default_factory=dict)
    parameter: tuple[str, _Node] | None = None
    rest: tuple[str, ASGIApp] | None = None
    here: ASGIApp | None = None


class Tree:
    """Applications by path templates: `/studies/{study}/series`, `/bulkdata/{path:path}`."""

    def __init__(self, applications: Mapping[str, ASGIApp]) -> None:
        self._root = _Node()
        for path, application in applications.items():
            self._add(path, application)

    def _add(self, path: str, application: ASGIApp) -> None:
        node = self._root
        for part in _segments(path):
            if part.endswith(REST):
                node.rest = (part[1 : -len(REST)], application)
                return
            if part.startswith("{"):
                if node.parameter is None:
                    node.parameter = (part[1:-1], _Node())
                assert node.parameter[0] == part[1:-1], f"{path}: one place, one name"
                node = node.parameter[1]
            else:
                node = node.named.setdefault(part, _Node())
        node.here = application

    def find(self, path: str) -> tuple[ASGIApp, dict[str, str]] | None:
        """What is at a path, percent-decoded, and its parameters; a slash at the end makes no difference."""
        node = self._root
        taken: dict[str, str] = {}
        segments = _segments(path)
        for at, part in enumerate(segments):
            following = node.named.get(part)
            if following is None and node.parameter is not None and part:
                name, following = node.parameter
                taken[name] = part
            if following is None:
                if node.rest is None:
                    return None
                name, application = node.rest
                taken[name] = "/".join(segments[at:])
                return application, taken
            node = following
        return None if node.here is None else (node.here, taken)


def _segments(path: str) -> list[str]:
    path = path.removeprefix("/").removesuffix("/")
    return path.split("/") if path else []


class Prompt:
    """An application that may know an answer without waiting for anything."""

    def at_once(self, scope: Scope) -> Answer | None:
        """The answer to a GET, None where it has to be waited for."""
        raise NotImplementedError


class Service(BaseRoute):
    """All resources below `root` as one route, which can also be called without Starlette's router before it."""

    def __init__(self, root: str, applications: Mapping[str, ASGIApp], nothing: ASGIApp) -> None:
        """`nothing` answers for addresses that name no resource."""
        self.root = root
        self._tree = Tree(applications)
        self._nothing = nothing

    def find(self, path: str) -> ASGIApp | None:
        """What answers at a path below the root, None where there is nothing."""
        found = self._tree.find(path)
        return None if found is None else found[0]

    def at_once(self, scope: Scope) -> Answer | None:
        """The answer to a GET where that can be made without waiting for anything; None where it cannot."""
        found = self._tree.find(scope["path"][len(self.root) :])
        if found is None:
            return None
        application, scope["path_params"] = found
        answer: Answer | None = application.at_once(scope) if isinstance(application, Prompt) else None
        return answer

    def covers(self, path: str) -> bool:
        """Whether a path is below the root."""
        return path.startswith(self.root) and path[len(self.root) : len(self.root) + 1] in ("", "/")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """For Starlette's router."""
        found = scope["type"] == "http" and self.covers(scope["path"])
        return (Match.FULL if found else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on to the application of its resource."""
        path = scope["path"][len(self.root) :]
        application, scope["path_params"] = self._tree.find(path) or (self._nothing, {"rest": path})
        await application(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handle(scope, receive, send)
