"""GET /api/plugins: what can be run, with which parameters, and on what of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from analysis.matching import Candidate, Match, candidates, matches
from analysis.registry import Installed, Registry
from pacs import uids
from pacs.auth import Principal, Right
from pacs.errors import Forbidden, InvalidUID

if TYPE_CHECKING:
    from pacs.archive import Archive


def routes(archive: Archive, registry: Registry) -> list[BaseRoute]:
    """The routes that `analysis` adds to a server."""

    async def plugins(request: Request) -> Response:
        study = request.query_params.get("study")
        try:
            listed = await anyio.to_thread.run_sync(describe, archive, registry, study, request.state.principal)
        except InvalidUID as error:
            return _problem(400, "Bad Request", error.reason)
        except Forbidden as error:
            return _problem(403, "Forbidden", error.reason)
        return JSONResponse(listed, headers={"Cache-Control": "no-store"})

    return [Route("/api/plugins", plugins, methods=["GET"])]


def _problem(status: int, title: str, detail: str) -> Response:
    body = {"title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")


def describe(archive: Archive, registry: Registry, study: str | None, principal: Principal) -> list[dict[str, Any]]:
    """Every plug-in, and with a study what of it each one takes. Raises InvalidUID and Forbidden."""
    principal.require(Right.QUERY)
    found = None
    if study is not None:
        found = candidates(archive.index, uids.checked(study, "Study Instance UID"), principal)
    return [_plugin(installed, found) for installed in sorted(registry, key=lambda i: i.id)]


def _plugin(installed: Installed, found: list[Candidate] | None) -> dict[str, Any]:
    manifest = installed.manifest
    described: dict[str, Any] = {
        "id": manifest.id,
        "version": manifest.version,
        "title": manifest.title,
        "description": manifest.description,
        "schema": installed.schema(),
        "inputs": [each.model_dump(mode="json") for each in manifest.inputs],
        "outputs": [each.model_dump(mode="json") for each in manifest.outputs],
        "auto": manifest.auto,
    }
    if found is not None:
        described["matches"] = [_match(match) for wanted in manifest.inputs for match in matches(wanted, found)]
    return described


def _match(match: Match) -> dict[str, Any]:
    first = match.instances[0]
    described = {"input": match.input, "label": match.label, "study_instance_uid": first.study_instance_uid}
    if match.level == "study":
        # The series of the images that pass; what else the study holds is no part of the match.
        return {**described, "sop_instance_uids": [each.sop_instance_uid for each in match.instances]}
    described["series_instance_uid"] = first.series_instance_uid
    if match.level == "instance":
        return {**described, "sop_instance_uids": [first.sop_instance_uid]}
    return described
