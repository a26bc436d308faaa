"""One request as a handler sees it: who asks, what is named, how the blocking core is reached; what all calls share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import parse_qsl

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from dicomweb import links
from dicomweb.answers import GZIP_FROM_BYTES, Answer, compressed
from dicomweb.bodies import LEND
from dicomweb.kept import Kept, Pace
from dicomweb.media_types import Offer, UnsupportedEncoding, accepts_gzip, negotiate
from pacs import uids
from pacs.auth import Principal, Right
from pacs.budget import Budget
from pacs.errors import ArchiveError, InvalidInput, TooLarge, Unauthenticated

if TYPE_CHECKING:
    from dicomweb.bodies import Lend, Lent
    from pacs.archive import Archive
    from pacs.retrieve import InstanceLocation

P = ParamSpec("P")
T = TypeVar("T")

NotHad = tuple[type[ArchiveError], str, float]

LOCATED_BYTES = 16 << 20
IO_THREADS = 32
RECEIVING_THREADS = PREPARING_THREADS = WRITING = 8
RECEIVING_TO_DISK = max(2, min(RECEIVING_THREADS, os.cpu_count() or 1))
"""Bodies that are received at a time for a local disk: more would only take interpreter and caches from each other."""

HERE = b"\xff"
"""Stands for an address in ready JSON; never valid in UTF-8."""

MADE_OF = "made of"
"""In the ASGI state: the version of the index (`Index.version`) that with the request alone makes the answer."""

SEEN = "seen"
"""In the ASGI state: that version as it was seen just now, by who looked for a ready answer."""

TOLD = "told"
"""In the ASGI state: what was found out from header fields alone, for requests of a connection that have the same."""

MADE = "made"
"""In the ASGI state: the answer, where it was made before the application was asked and only has to be sent."""

REMEMBERED_BYTES = 400
REMEMBERED_BASES = 256
"""Clients ask in few ways, each of them many times: what a longer way means is found out each time."""

VARY = ("Vary", "Accept, Accept-Encoding")
"""Of what is negotiated and may be compressed; also where it has not changed (RFC 9110 15.4.5)."""

MAX_QUERY_FIELDS = 256
MAX_JSON_BYTES = 16 << 20

Rendition = Callable[["Archive", "list[InstanceLocation]"], bytes]
"""Makes one representation of non-image instances, or raises NotFound where these have none of that kind."""


@dataclass(frozen=True)
class Web:
    """What every call shares: the archive, where it is mounted, and the named limits on threads.

    `proxies` are believed about how they were asked. `io` bounds calls that wait for disk, network or database, `cpu`
    those that decode, transcode or render, `receiving` those that read bodies from connections. What is received is
    checked and written by `preparing`, or by who received it where that waits for nobody; then `writing` is how many
    instances may be on their way to the disk.
    """

    archive: Archive
    root: str
    renditions: Mapping[str, Rendition]
    proxies: Sequence[links.Network] = ()
    io: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(IO_THREADS))
    cpu: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(2))
    kept: Kept[Answer] = field(default_factory=Kept)
    located: Kept[list[InstanceLocation]] = field(default_factory=lambda: Kept(LOCATED_BYTES, LOCATED_BYTES))
    receiving: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(RECEIVING_THREADS))
    preparing: Executor | None = None
    writing: Budget = field(default_factory=lambda: Budget(WRITING))
    undecodable: Kept[NotHad] = field(default_factory=lambda: Kept(LOCATED_BYTES, LOCATED_BYTES))
    """Why an instance, or a part of one, could not be had, and until when that is believed (`several.LeftOut`)."""
    pace: Pace = field(default_factory=Pace)
    bases: dict[Hashable, str] = field(default_factory=dict)
    """Where the service was reached, by what requests told of it."""


def _pairs(query: str) -> list[tuple[str, str]]:
    """Name and value pairs, in order. Raises ValueError for too many, or text that is not UTF-8."""
    if "%" not in query and "+" not in query:  # as `parse_qsl` would, which takes ten times as long
        fields = query.split("&") if query else []
        if len(fields) > MAX_QUERY_FIELDS:
            raise ValueError("too many fields")
        return [(name, value) for name, _, value in [each.partition("=") for each in fields if each]]
    return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)


@lru_cache(maxsize=1024)
def _chosen(offers: tuple[Offer, ...], header: str | None, asked: tuple[str, ...]) -> Offer:
    return negotiate(offers, header, asked)


class Waits(BaseException):
    """A call that may not wait came to where it would have to. No error: nobody but `Endpoint.at_once` catches it."""


class Call:
    """One request. `params` are the parts of its path, `query` its query parameters in order, decoded once.

    A call that is `prompt` is answered without waiting or not at all: where it would have to, it raises Waits.
    """

    def __init__(self, web: Web, scope: Scope, receive: Receive, *, prompt: bool = False) -> None:
        self.web = web
        self.prompt = prompt
        self.archive = web.archive
        self.scope = scope
        self.receive = receive
        self.params: Mapping[str, str] = scope["path_params"]
        self._root: str | None = None
        self._query: list[tuple[str, str]] | None = None
        self._headers: Headers | None = None

    @property
    def headers(self) -> Headers:
        """The header fields."""
        if self._headers is None:
            self._headers = Headers(scope=self.scope)
        return self._headers

    def told(self, what: Hashable, find: Callable[[], T]) -> T:
        """What `find` makes of the header fields alone: found once where the next requests have the same ones."""
        known: dict[Hashable, T] | None = self.scope.get("state", {}).get(TOLD)
        if known is None:
            return find()
        found = known.get(what)
        if found is None:
            found = known[what] = find()
        return found

    @property
    def query(self) -> list[tuple[str, str]]:
        """Name and value pairs. Raises InvalidInput for too many or text that is not UTF-8."""
        if self._query is None:
            try:
                self._query = _pairs(self.scope["query_string"].decode("ascii"))
            except ValueError:
                raise InvalidInput("the query cannot be read: too many fields, or no UTF-8") from None
        return self._query

    def parameter(self, *names: str) -> str | None:
        """The value of a query parameter under any of its spellings. Raises InvalidInput where it is given twice."""
        found = [value for name, value in self.query if name in names]
        if len(found) > 1:
            raise InvalidInput("a query parameter is given more than once", about=names[0])
        return found[0] if found else None

    def principal(self, right: Right) -> Principal:
        """Who asks, when they have `right`. Raises Unauthenticated and Forbidden."""
        principal = self.scope.get("state", {}).get("principal")
        if not isinstance(principal, Principal):
            raise Unauthenticated("a credential is needed")
        principal.require(right)
        return principal

    def uid(self, name: str) -> str:
        """A UID out of the path. Raises InvalidUID."""
        return uids.checked(self.params[name], f"the {name} in the address")

    @property
    def service_root(self) -> str:
        """The URL of the service as the caller can reach it: as configured, as a trusted proxy says, or as asked for.

        Raises InvalidInput for a Host header that could carry anything but a host into links.
        """
        if self._root is None:
            self._root = self.told("root", self._found_root)
        return self._root

    def _found_root(self) -> str:
        return (self.archive.settings.public_url.rstrip("/") or self._base()) + self.web.root

    def _base(self) -> str:
        """The same root for requests that say the same of where they were sent."""
        scope = self.scope
        told = [field for field in scope["headers"] if field[0] in links.TOLD]
        key = (scope.get("scheme"), scope.get("server"), scope.get("root_path"), tuple(told))
        if self.web.proxies or sum(len(value) for _, value in told) > REMEMBERED_BYTES:
            return links.base(scope, self.headers, self.web.proxies)
        found = self.web.bases.get(key)
        if found is None:
            found = links.base(scope, self.headers)
            if len(self.web.bases) >= REMEMBERED_BASES:
                self.web.bases.clear()
            self.web.bases[key] = found
        return found

    def choose(self, offers: Sequence[Offer], named: str = "") -> Offer:
        """The representation to make (PS3.18 8.7.8.1); `named` is what no other offers are. Raises NotAcceptable."""
        header, asked = self.accept
        if named and not asked:
            return self.told(named, lambda: negotiate(offers, header, ()))
        if sum(map(len, asked), len(header or "")) > REMEMBERED_BYTES:
            return negotiate(offers, header, asked)
        return _chosen(tuple(offers), header, asked)

    @property
    def accept(self) -> tuple[str | None, tuple[str, ...]]:
        """The Accept header, None where there is none, and the accept parameters of the query."""
        asked = [value for name, value in self.query if name == "accept"] if self.scope["query_string"] else []
        return self.told("accept", self._given_accept)[0], tuple(asked)

    def _given_accept(self) -> tuple[str | None]:
        given = [value.decode("latin-1") for name, value in self.scope["headers"] if name == b"accept"]
        return (",".join(given) if given else None,)

    async def io(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work` done in a thread where it may wait for disk, network or database."""
        if self.prompt:
            raise Waits
        return await anyio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=self.web.io)

    async def quickly(self, kind: Hashable, work: Callable[[], T]) -> T:
        """`work` done here where such look-ups in a local index have proven quick, else in a thread as by `io`.

        For work that asks the index and reads at most what the page cache holds.
        """
        pace = self.web.pace
        if self.archive.index.dialect == "sqlite" and pace.is_quick(kind):
            return pace.timed(kind, work)
        return await self.io(pace.timed, kind, work)

    async def once(self, kind: Hashable, work: Callable[[], Answer | Callable[[], Answer]]) -> Answer:
        """The answer that `work` makes of request and index alone: the same one until the index changes.

        Work that sees that there is more to do returns what does it, which a thread then runs. The version of the index
        that the answer was made of is left in the ASGI state, for those who keep answers.
        """
        state = self.scope.setdefault("state", {})
        version = state.get(SEEN) or self.archive.index.version()
        made = await self.quickly(kind, work)
        answer = made if isinstance(made, Answer) else await self.io(made)
        state[MADE_OF] = version
        return answer

    async def cpu(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work` done in a thread under the limit on decoding and rendering."""
        if self.prompt:
            raise Waits
        return await anyio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=self.web.cpu)

    def text(self, body: bytes, content_type: str, headers: list[tuple[str, str]] | None = None) -> Answer:
        """An answer of text, compressed where the client takes that and it pays. Blocks; call it in a thread."""
        fields = [*(headers or ()), VARY]
        if len(body) >= GZIP_FROM_BYTES and accepts_gzip(self.headers.get("accept-encoding")):
            return Answer(200, content_type, [compressed(body)], [*fields, ("Content-Encoding", "gzip")])
        return Answer(200, content_type, [body], fields)

    def refuse_encoding(self) -> None:
        """Nothing, or UnsupportedEncoding for a compressed request body: a few bytes could become any number."""
        if self.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise UnsupportedEncoding("request bodies with a Content-Encoding are not taken")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The request body as it arrives. Raises InvalidInput where the client leaves before its end."""
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise InvalidInput("the client left before the end of the body")
            chunk = message.get("body", b"")
            if chunk:
                yield chunk
            if not message.get("more_body", False):
                return

    async def batches(self, batch_bytes: int = 1 << 20) -> AsyncIterator[list[bytes]]:
        """The request body in lists of at least `batch_bytes`, the last one with what is left, perhaps nothing.

        So that a thread is asked once for many small pieces.
        """
        batch: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            batch.append(chunk)
            size += len(chunk)
            if size >= batch_bytes:
                yield batch
                batch, size = [], 0
        yield batch

    def lend(self) -> Lent | None:
        """The rest of the request body, to be read from the connection; None where only `chunks` gives it."""
        lend: Lend | None = self.scope.get("state", {}).get(LEND)
        return None if lend is None else lend()

    async def body(self, limit: int = MAX_JSON_BYTES) -> bytes:
        """The whole request body. Raises TooLarge beyond `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"the body is larger than {limit} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def warning(self, text: str) -> tuple[str, str]:
        """A Warning header (PS3.18 8.3.4: code 299, the service, the text). What could end a header is replaced."""
        plain = "".join(c if " " <= c <= "~" else "?" for c in text)
        return ("Warning", f"299 {self.service_root}: {plain}")
