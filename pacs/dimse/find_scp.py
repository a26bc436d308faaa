"""C-FIND as SCP (PS3.4 C.4.1, PS3.7 9.1.2), Patient Root and Study Root, on `archive.query`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pacs.auth import Right
from pacs.dicom.matching import Options, Query
from pacs.dimse import identifiers, status
from pacs.dimse.messages import Command, Response, Tag
from pacs.dimse.negotiation import Context
from pacs.dimse.operation import Peer
from pacs.errors import TooLarge

PAGE_ROWS = 500
"""Rows read from the index at a time."""

CANCEL_EVERY_ROWS = 50
"""Rows encoded at a time; in between a C-CANCEL is looked for."""


class FindOperation:
    """One query: its identifier on the way in, its matches on the way out."""

    def __init__(self, peer: Peer, context: Context, command: Command) -> None:
        self._peer = peer
        self._context = context
        self._identifier = bytearray()
        self._refusal: Response | None = None
        if command.mistyped:
            self._refusal = Response(status.MISTYPED_ARGUMENT, "command element of a wrong length", command.mistyped)
        elif not command.has_dataset:
            self._refusal = Response(status.CANNOT_UNDERSTAND, "C-FIND request without identifier", (Tag.DATASET_TYPE,))

    def write(self, piece: memoryview) -> None:
        """The next bytes of the identifier; those beyond the limit are forgotten."""
        if len(self._identifier) <= identifiers.MAX_IDENTIFIER_LENGTH:
            self._identifier += piece

    def finish(self, cancelled: Callable[[], bool]) -> Iterator[Response]:
        """A pending response per match, then the final one."""
        if self._refusal is not None:
            yield self._refusal
            return
        try:
            request = self._request()
        except Exception as error:
            yield status.failure(error)
            return
        encoder = self._encoder(request)
        pending = status.PENDING if request.complete else status.PENDING_WITHOUT_OPTIONAL_KEYS
        pages = self._pages(request)
        while True:
            if cancelled():
                yield Response(status.CANCEL)
                return
            try:
                responses = [Response(pending, dataset=encoder.encode(found)) for found in next(pages, ())]
            except Exception as error:
                yield status.failure(error)
                return
            if not responses:
                yield Response(status.SUCCESS)
                return
            yield from responses

    def abort(self) -> None:
        """Nothing was begun that would need undoing."""

    def _request(self) -> identifiers.FindRequest:
        abstract = self._context.abstract_syntax
        relational, options = self._agreed()
        return identifiers.understand(self._read(), abstract, relational=relational, options=options)

    def _read(self) -> dict[str, Any]:
        """The identifier in the DICOM JSON model."""
        self._peer.principal.require(Right.QUERY)
        if len(self._identifier) > identifiers.MAX_IDENTIFIER_LENGTH:
            raise TooLarge(f"identifier of more than {identifiers.MAX_IDENTIFIER_LENGTH} bytes")
        return identifiers.decode(bytes(self._identifier), self._context.transfer_syntax)

    def _agreed(self) -> tuple[bool, Options]:
        """Whether queries are relational, and what was negotiated of matching (PS3.4 Table C.5-2)."""
        flags = self._peer.extended.get(self._context.abstract_syntax, b"").ljust(7, b"\0")
        relational, date_and_time, fuzzy, _, _, empty_values, multiple = map(bool, flags[:7])
        options = Options(
            fuzzy=fuzzy, date_and_time=date_and_time, empty_values=empty_values, multiple_values=multiple
        )  # fmt: skip
        return relational, options

    def _encoder(self, request: identifiers.FindRequest) -> identifiers.ResponseEncoder:
        return identifiers.ResponseEncoder(request, self._context.transfer_syntax, self._peer.ae_title)

    def _pages(self, request: identifiers.FindRequest) -> Iterator[list[dict[str, Any]]]:
        """All matches, a few at a time; never an empty list."""
        query = Query(
            level=request.level,
            keys=request.keys,
            include=request.include,
            limit=PAGE_ROWS if all(key.attribute.matchable for key in request.keys) else None,
            with_upper=False,  # what the identifier names is all that a response holds
        )
        remaining = 1
        while remaining:
            found = self._peer.archive.query.search(query, self._peer.principal)
            for first in range(0, len(found.rows), CANCEL_EVERY_ROWS):
                yield [row.attributes for row in found.rows[first : first + CANCEL_EVERY_ROWS]]
            remaining = found.remaining if found.rows else 0
            query = replace(query, offset=query.offset + len(found.rows))
