"""Answers of DICOMweb that are made where their request was read: no task, no thread, no messages between layers.

Most look-ups take less time than the way to them. Who asks is settled as for every other request, and the handlers
are the same; where one of them would have to wait, or anything is out of the ordinary, nothing has happened yet and
the request goes the long way (`pacs.server.http`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

from dicomweb import cors
from dicomweb.answers import Answer, Buffer
from dicomweb.calls import MADE_OF, TOLD
from dicomweb.dispatch import Service
from pacs.errors import Unauthenticated
from pacs.server.at_hand import Fields
from pacs.server.http import credential_of, known, secured
from pacs.server.shelf import Shelf, status_line

if TYPE_CHECKING:
    from pacs.auth import Auth


@lru_cache(maxsize=256)
def _added(names: tuple[bytes, ...]) -> bytes:
    """The fields of ours that an answer with these lacks."""
    held = [(name, b"") for name in names]
    return b"".join([b"%b: %b\r\n" % field for field in secured(held)[len(held) :]])


_UNSENDABLE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Prompt:
    """Who may know an answer at once. Used by the event loop alone."""

    def __init__(self, services: Sequence[Service], auth: Auth, shelf: Shelf, cors_origins: Sequence[str] = ()) -> None:
        """Pages of `cors_origins` may read what the `services` answer, as `pacs.server.http.application` has it."""
        self._services = services
        self._origins = cors.checked(cors_origins)
        self._auth = auth
        self._shelf = shelf

    def answer(self, scope: Scope) -> Answer | None:
        """The answer to a GET; None where nobody knows who asks, or it has to be waited for."""
        path = scope["path"]
        for service in self._services:
            if service.covers(path):
                break
        else:
            return None
        told: dict[Hashable, Any] = scope["state"].get(TOLD, {})
        credential = told.get("credential")
        if credential is None:
            try:
                credential = told["credential"] = credential_of(scope, Headers(raw=scope["headers"]))
            except Unauthenticated:
                return None
        principal = self._auth.remembered(*credential)
        if principal is None:
            return None
        known(scope, self._auth, principal, credential)
        return service.at_once(scope)

    def written(self, scope: Scope, answer: Answer, common: Fields) -> list[Buffer] | None:
        """A whole answer as it goes over the wire, with the header fields that all answers have; it may be kept.

        None for one whose header fields cannot be sent: the long way says so.
        """
        own = answer.fields()
        if self._origins:
            own = cors.told(own, Headers(raw=scope["headers"]).get("origin"), self._origins)
        if _UNSENDABLE.search(b"".join([value for _, value in own])):
            return None
        fields = b"".join([b"%b: %b\r\n" % field for field in own]) + _added(tuple([name for name, _ in own]))
        if scope["state"].get(MADE_OF) is not None and answer.status in (200, 204):
            self._shelf.keep(scope, answer.status, fields, answer.body)
        return [b"%b%b%b\r\n" % (status_line(answer.status), self._shelf.lines(common), fields), *answer.body]
