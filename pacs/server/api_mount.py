"""Mounts the rows of the JSON API: a route for each path, handlers on threads, errors as problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio.to_thread
import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dicomweb import errors
from pacs.errors import ArchiveError, InvalidInput
from pacs.json_api import BODY_BYTES, JSON, Reply, Row

Endpoint = Callable[[Request], Awaitable[Response]]
NO_STORE = {"Cache-Control": "no-store"}


def mount(rows: Sequence[Row]) -> list[BaseRoute]:
    """A route for each path of the table, fixed paths before those with variable parts."""
    by_path: dict[str, dict[str, Row]] = {}
    for row in rows:
        methods = by_path.setdefault(row.path, {})
        assert row.method not in methods, f"{row.method} {row.path} stands twice in the table"
        methods[row.method] = row
    ordered = sorted(by_path.items(), key=lambda each: ["{" in part for part in each[0].split("/")])
    return [Route(path, _endpoint(methods), methods=list(methods)) for path, methods in ordered]


def _endpoint(methods: Mapping[str, Row]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        row = methods["GET" if request.method == "HEAD" else request.method]
        try:
            if row.endpoint is not None:
                answer: Response = await row.endpoint(request)
                return answer
            return await _answer(row, request)
        except ArchiveError as error:
            code = errors.status(error)
            if code >= 500:
                errors.report(error, request.method, row.path)
            headers = NO_STORE | dict(errors.extra_headers(error))
            return Response(errors.problem(code, error.reason, error.about), code, headers, errors.PROBLEM)

    return endpoint


async def _answer(row: Row, request: Request) -> Response:
    query = dict(request.query_params)
    if len(query) < len(request.query_params.multi_items()):
        raise InvalidInput("a query parameter is given twice")
    raw = bytearray()
    if row.body is not None:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > BODY_BYTES:
                break  # the row refuses it by its length
    asked = (request.state.principal, request.path_params, query, bytes(raw))
    told = await anyio.to_thread.run_sync(row.call, *asked)
    if told is None:
        return Response(status_code=204, headers=NO_STORE)
    if isinstance(told, Reply):
        named = {"Content-Disposition": f'attachment; filename="{told.filename}"'} if told.filename else {}
        return Response(told.content, row.status, NO_STORE | named, told.media_type)
    # Keys of SQL rows are a kind of text of their own.
    body = orjson.dumps(told, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    return Response(body, row.status, NO_STORE, JSON)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")
