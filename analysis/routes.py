"""The rows that `analysis` adds to the JSON API, and the first of them: what can be run, and on what of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.matching import Candidate, Match, candidates, matches
from analysis.registry import Installed, Registry
from pacs import uids
from pacs.auth import Principal, Right
from pacs.json_api import TEXT, UID, Field, Row

if TYPE_CHECKING:
    from pacs.archive import Archive

_PLUGIN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": TEXT, "version": TEXT, "title": TEXT, "description": TEXT, "auto": {"type": "boolean"},
        "schema": {"type": "object", "description": "JSON Schema of the parameters"},
        "inputs": {"type": "array", "items": {"type": "object"}},
        "outputs": {"type": "array", "items": {"type": "object"}},
        "matches": {"type": "array", "items": {"type": "object"}, "description": "What of the study it takes"},
    },
    "required": ["id", "version", "title", "schema", "inputs", "outputs"],
}  # fmt: skip


def rows(archive: Archive, registry: Registry) -> list[Row]:
    """Every row of `analysis`."""
    return [
        Row(
            "GET",
            "/api/plugins",
            lambda asked: describe(archive, registry, asked.query.get("study"), asked.principal),
            "Plug-ins: what they take and give, and the JSON Schema of their parameters.",
            tag="plug-ins",
            right=Right.QUERY,
            query=(Field("study", "A Study Instance UID: tells also what of it each plug-in takes.", UID),),
            answer={"type": "array", "items": _PLUGIN},
        ),
    ]


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
        asked_for = [each for each in manifest.inputs if not each.prior and not each.results_of]
        described["matches"] = [_match(match) for wanted in asked_for for match in matches(wanted, found)]
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
