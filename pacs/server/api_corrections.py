"""/api for administrators: quarantine, versions, rejections, corrections, discrepancies, retention. JSON in and out.

docs/corrections.md documents every route; each needs the right "admin" (removing for good also "delete").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from pacs import uids
from pacs.correction_request import Request as Correction
from pacs.errors import ArchiveError, Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from pacs.server.http import problem, small_json

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.auth import Principal

_FIELDS = ("reason", "study_instance_uid", "patient_id", "issuer", "into_patient_id", "into_issuer")
_STATUS: tuple[tuple[type[ArchiveError], int, str], ...] = (
    (InvalidInput, 400, "Bad Request"),
    (Forbidden, 403, "Forbidden"),
    (NotFound, 404, "Not Found"),
    (Conflict, 409, "Conflict"),
    (Unavailable, 503, "Service Unavailable"),
    (ArchiveError, 500, "Internal Server Error"),
)
_MAX_ID_DIGITS = 18
BODY_BYTES = 1 << 16

Handler = Callable[["Principal", Mapping[str, str], Mapping[str, str], dict[str, Any]], object]
"""From who asks, the path's parameters, the query's and the body to what is answered; blocking."""


def routes(archive: Archive) -> list[BaseRoute]:
    """Every route of this file."""
    keeping, corrections = archive.keeping, archive.corrections

    def listing(state: str) -> Handler:
        def handler(who: Principal, path: Mapping[str, str], query: Mapping[str, str], _: dict[str, Any]) -> object:
            instance = path.get("uid") or query.get("instance")
            return keeping.listed(who, state, instance=instance, study=query.get("study"))

        return handler

    def one(state: str) -> Handler:
        return lambda who, path, _q, _b: _of_state(keeping.of(who, _number(path)), state)

    def decide(state: str, bring_in: str, discard: str) -> Handler:
        def handler(who: Principal, path: Mapping[str, str], _: Mapping[str, str], body: dict[str, Any]) -> object:
            number, reason = _number(path), _text(body, "reason")
            _of_state(keeping.of(who, number), state)
            match body.get("decision"):
                case decision if decision == bring_in:
                    return keeping.bring_in(who, number, reason)
                case decision if decision == discard:
                    return keeping.discard(who, number, reason)
            raise InvalidInput(f'"decision" is "{bring_in}" or "{discard}"')

        return handler

    def correct(who: Principal, _p: Mapping[str, str], _q: Mapping[str, str], body: dict[str, Any]) -> object:
        return corrections.make(who, _correction(body))

    def corrected(who: Principal, _p: Mapping[str, str], query: Mapping[str, str], _b: dict[str, Any]) -> object:
        return corrections.listed(who, query.get("study"))

    def keep(who: Principal, path: Mapping[str, str], _q: Mapping[str, str], body: dict[str, Any]) -> object:
        archive.retention.keep(who, uids.checked(path["uid"]), _text(body, "reason"))
        return None

    def release(who: Principal, path: Mapping[str, str], _q: Mapping[str, str], _b: dict[str, Any]) -> object:
        archive.retention.release(who, uids.checked(path["uid"]))
        return None

    def due(who: Principal, _p: Mapping[str, str], _q: Mapping[str, str], _b: dict[str, Any]) -> object:
        return [asdict(each) for each in archive.retention.preview(who, time.time())]

    def discrepancies(who: Principal, _p: Mapping[str, str], query: Mapping[str, str], _b: dict[str, Any]) -> object:
        return archive.discrepancies.listed(who, settled=query.get("all") == "true")

    def settle(who: Principal, path: Mapping[str, str], _q: Mapping[str, str], _b: dict[str, Any]) -> object:
        archive.discrepancies.settle(who, _number(path))
        return None

    table: list[tuple[str, str, Handler]] = [
        ("GET", "/api/quarantine", listing("quarantined")),
        ("GET", "/api/quarantine/{id}", one("quarantined")),
        ("POST", "/api/quarantine/{id}", decide("quarantined", "accept", "reject")),
        ("GET", "/api/instances/{uid}/versions", listing("replaced")),
        ("GET", "/api/versions/{id}", one("replaced")),
        ("POST", "/api/versions/{id}", decide("replaced", "restore", "remove")),
        ("GET", "/api/rejections", listing("rejected")),
        ("GET", "/api/rejections/{id}", one("rejected")),
        ("POST", "/api/rejections/{id}", decide("rejected", "restore", "remove")),
        ("GET", "/api/corrections", corrected),
        ("POST", "/api/corrections", correct),
        ("GET", "/api/corrections/{id}", lambda who, path, _q, _b: corrections.of(who, _number(path))),
        ("POST", "/api/corrections/{id}/undo", lambda who, path, _q, _b: corrections.undo(who, _number(path))),
        ("GET", "/api/discrepancies", discrepancies),
        ("POST", "/api/discrepancies/{id}/settle", settle),
        ("GET", "/api/retention", due),
        ("GET", "/api/kept", lambda who, _p, _q, _b: archive.retention.kept(who)),
        ("PUT", "/api/studies/{uid}/keep", keep),
        ("DELETE", "/api/studies/{uid}/keep", release),
    ]
    return [Route(path, _endpoint(handler), methods=[method]) for method, path, handler in table]


def _endpoint(handler: Handler) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        body = await small_json(request, BODY_BYTES) if request.method in ("POST", "PUT") else {}
        asked = (request.state.principal, request.path_params, request.query_params, body)
        try:
            told = await anyio.to_thread.run_sync(handler, *asked)
        except ArchiveError as error:
            status, title = next((code, title) for kind, code, title in _STATUS if isinstance(error, kind))
            return problem(status, title, str(error))
        headers = {"Cache-Control": "no-store"}
        return Response(status_code=204, headers=headers) if told is None else JSONResponse(told, headers=headers)

    return endpoint


def _number(path: Mapping[str, str]) -> int:
    text = path["id"]
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_ID_DIGITS):
        raise NotFound("no such number", about=text[:_MAX_ID_DIGITS])
    return int(text)


def _of_state(found: dict[str, Any], state: str) -> dict[str, Any]:
    if found["state"] != state:
        raise NotFound(f"not {state}", about=str(found["id"]))
    return found


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise InvalidInput(f'"{name}" is text')
    return value


def _correction(body: dict[str, Any]) -> Correction:
    unknown = body.keys() - {"kind", "changes", *_FIELDS}
    if unknown:
        raise InvalidInput(f"unknown member {min(unknown)!r}", about="corrections")
    changes = body.get("changes") or {}
    if not isinstance(changes, dict) or not all(value is None or isinstance(value, str) for value in changes.values()):
        raise InvalidInput('"changes" has attributes and their values as text, or null for one that is to go')
    return Correction(_text(body, "kind"), **{name: _text(body, name) for name in _FIELDS}, changes=changes)
