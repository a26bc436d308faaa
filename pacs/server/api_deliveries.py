"""/api/deliveries: what is on its way to other systems, sending on demand, and trying dead letters again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pacs import uids
from pacs.errors import ArchiveError, Forbidden, InvalidInput, NotFound
from pacs.server.http import problem, small_json

if TYPE_CHECKING:
    from pacs.auth import Principal
    from pacs.forward import Forward

LISTED = 100
LISTED_AT_MOST = 1000


def routes(forward: Forward) -> list[BaseRoute]:
    """The routes of the return path."""

    async def listed(request: Request) -> Response:
        return await _answer(request, _listed, forward, dict(request.query_params))

    async def send(request: Request) -> Response:
        return await _answer(request, _send, forward, await small_json(request), status=202)

    async def retry(request: Request) -> Response:
        return await _answer(request, _retry, forward, await small_json(request))

    return [
        Route("/api/deliveries", listed, methods=["GET"]),
        Route("/api/deliveries", send, methods=["POST"]),
        Route("/api/deliveries/retry", retry, methods=["POST"]),
    ]


def _listed(forward: Forward, principal: Principal, query: dict[str, Any]) -> object:
    try:
        after, limit = int(query.get("after", 0)), int(query.get("limit", LISTED))
    except ValueError:
        raise InvalidInput("after and limit are numbers") from None
    if not (0 <= after < 1 << 62 and 1 <= limit <= LISTED_AT_MOST):
        raise InvalidInput(f"limit is 1 to {LISTED_AT_MOST}, after an id")
    found = forward.listed(principal, state=query.get("state"), study=query.get("study"), after=after, limit=limit)
    return {"destinations": forward.names, "counts": forward.counts(), "deliveries": found}


def _send(forward: Forward, principal: Principal, body: dict[str, Any]) -> object:
    to = body.get("to")
    if not isinstance(to, str):
        raise InvalidInput('"to" names a destination')
    named: dict[str, str | None] = {}
    for name in ("study_instance_uid", "series_instance_uid", "sop_instance_uid"):
        value = body.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f'"{name}" is a UID')
        named[name] = None if value is None else uids.checked(value, name)
    study = named["study_instance_uid"]
    if study is None:
        raise InvalidInput('"study_instance_uid" is needed')
    sent = forward.request(principal, to, study, named["series_instance_uid"], named["sop_instance_uid"])
    return {"to": to, "instances": sent}


def _retry(forward: Forward, principal: Principal, body: dict[str, Any]) -> object:
    ids, to = body.get("ids"), body.get("to")
    if ids is not None and not (isinstance(ids, list) and all(type(each) is int for each in ids)):
        raise InvalidInput('"ids" is a list of numbers')
    if to is not None and not isinstance(to, str):
        raise InvalidInput('"to" names a destination')
    return {"tried_again": forward.retry(principal, ids, to)}


async def _answer(
    request: Request, handler: Any, forward: Forward, asked: dict[str, Any], status: int = 200
) -> Response:
    try:
        told = await anyio.to_thread.run_sync(handler, forward, request.state.principal, asked)
    except InvalidInput as error:
        return problem(400, "Bad Request", str(error))
    except Forbidden as error:
        return problem(403, "Forbidden", error.reason)
    except NotFound as error:
        return problem(404, "Not Found", str(error))
    except ArchiveError as error:
        return problem(503, "Service Unavailable", error.reason)
    return JSONResponse(told, status, headers={"Cache-Control": "no-store"})
