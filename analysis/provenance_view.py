"""GET /api/provenance/{uid}: how a result came to be, or what a Workitem made, as JSON and as a page that people read.

What ran, on what, with which parameters and which code, which objects came out; and upwards, where an input was itself
a result, how that one came to be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from analysis.results import record
from pacs.auth import Principal, Right
from pacs.dicom import ups, ups_task
from pacs.dicom.json_model import text
from pacs.dicom.sop_classes import STORAGE_SOP_CLASSES
from pacs.errors import ArchiveError, NotFound
from pacs.index import schema
from pacs.json_api import TEXT, UID, Field, Reply, Row

if TYPE_CHECKING:
    from pacs.archive import Archive

HTML = "text/html"
MOST_STEPS = 10
"""How many results upwards are told; chains of plug-ins are short."""

_AT_ONCE = 500
_LIST = {"type": "array", "items": {"type": "object"}}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "workitem": TEXT, "label": TEXT, "state": TEXT, "reason": TEXT,
        "plugin": {"type": "object", "description": "id, version and title"},
        "parameters": {"type": "object"},
        "package": TEXT, "backend": TEXT, "task": TEXT,
        "inputs": {**_LIST, "description": "One a series: its UIDs, how many instances, and which Workitem made them"},
        "outputs": {**_LIST, "description": "The result objects that are here"},
        "upwards": {**_LIST, "description": "The same of the Workitems that made inputs"},
    },
    "required": ["workitem", "label", "state", "plugin", "parameters", "inputs", "outputs", "upwards"],
}  # fmt: skip


def rows(archive: Archive) -> list[Row]:
    """The row of the JSON API."""
    view = View(archive)

    def answer(uid: str, form: str, principal: Principal) -> object:
        found = view.of(uid, principal)
        return Reply(page(found).encode(), f"{HTML}; charset=utf-8") if form == "html" else found

    return [
        Row(
            "GET",
            "/api/provenance/{uid}",
            lambda asked: answer(asked.path["uid"], asked.query.get("as", "json"), asked.principal),
            "How a result (SOP Instance UID) or what a Workitem made came to be: what ran, on what, with what.",
            tag="provenance",
            right=Right.QUERY,
            query=(Field("as", "JSON, or a page to read.", {**UID, "pattern": "", "enum": ["json", "html"]}),),
            answer=_ANSWER,
            errors=(404,),
            also=(HTML,),
        )
    ]


def routes() -> list[BaseRoute]:
    """/provenance/{uid}: the page under a plain address, for links in letters and reports."""

    async def readable(request: Request) -> Response:
        uid = quote(str(request.path_params["uid"]), safe="")
        return RedirectResponse(f"../api/provenance/{uid}?as=html", 307)

    return [Route("/provenance/{uid}", readable, methods=["GET"])]


class View:
    """Provenance out of the index: Workitems, instances and the record in them. Safe from any thread."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def of(self, uid: str, principal: Principal) -> dict[str, Any]:
        """The provenance of one result or Workitem. Raises NotFound and Forbidden."""
        principal.require(Right.QUERY)
        made_by = self._makers([uid], principal).get(uid, "")
        return self._told(made_by or uid, principal, MOST_STEPS, set())

    def _told(self, workitem: str, principal: Principal, steps: int, seen: set[str]) -> dict[str, Any]:
        seen.add(workitem)
        try:
            attributes = self._archive.worklist.retrieve(workitem, principal)
        except NotFound:  # as in an index that was made again: its results tell by themselves
            attributes = {}
        found = self._outputs(workitem, attributes, principal)
        if not attributes and not found:
            raise NotFound("neither a Workitem nor a result of one has this UID", about=workitem)
        kept = self._record(found)
        code = next(iter(ups.items(attributes, ups.WORKITEM_CODE_SEQUENCE)), {})
        used: dict[str, Any] = kept["inputs"] if isinstance(kept.get("inputs"), dict) else {}
        instances = list(used.get("instances") or ())
        inputs = self._inputs(attributes, instances, principal) if attributes else self._read_in(instances, principal)
        makers = sorted({maker for each in inputs for maker in each["made_by"]} - seen)
        upwards = []
        for maker in makers[: steps if steps > 0 else 0]:
            try:
                upwards.append(self._told(maker, principal, steps - 1, seen))
            except NotFound:  # its Workitem was removed; the result says itself where it is from
                upwards.append({"workitem": maker, "state": "removed"})
        told = {
            "workitem": workitem,
            "label": text(attributes, ups.LABEL) or "",
            "state": text(attributes, ups.PROCEDURE_STEP_STATE) or "removed",
            "plugin": kept.get("plugin") or {"id": ups.code_value(code)[0], "title": text(code, "00080104") or ""},
            "parameters": kept.get("parameters") or _parameters(attributes),
            "inputs": inputs,
            "outputs": found,
            "upwards": upwards,
        }
        told |= {name: kept[name] for name in ("package", "backend", "task") if kept.get(name)}
        if used.get("digest"):
            told["inputs_digest"] = used["digest"]
        return told

    def _inputs(self, attributes: Mapping[str, Any], used: Sequence[str], principal: Principal) -> list[dict[str, Any]]:
        """What the Workitem names; of a whole series or study, which instances it is taken from the record, `used`.

        A record of very many inputs lists none: then it is what lies in the series or study now.
        """
        told = []
        references = ups_task.references_of(attributes)
        for each in references:
            uids = [sop for _, sop in each.instances]
            if not uids and used and len(references) == 1:
                uids = list(used)
            elif not uids:
                here = self._within(each, principal)
                uids = sorted(set(here) & set(used)) if used else here
            makers = self._makers(uids, principal)
            told.append(
                {
                    "study_instance_uid": each.study_instance_uid,
                    "series_instance_uid": each.series_instance_uid or "",
                    "instances": len(uids),
                    "made_by": sorted({maker for maker in makers.values() if maker}),
                }
            )
        return told

    def _read_in(self, used: Sequence[str], principal: Principal) -> list[dict[str, Any]]:
        """The inputs that a record names, where no Workitem tells of them: those that are here, by series."""
        i, r, s = schema.instance.c, schema.series.c, schema.study.c
        told: dict[str, dict[str, Any]] = {}
        for start in range(0, len(used), _AT_ONCE):
            wanted = (
                select(s.study_instance_uid, r.series_instance_uid, i.result_of)
                .join_from(schema.instance, schema.series, r.id == i.series_key)
                .join(schema.study, s.id == i.study_key)
                .where(i.sop_instance_uid.in_(used[start : start + _AT_ONCE]))
                .order_by(i.id)
            )
            if principal.scope:
                wanted = wanted.where(s.scope == principal.scope)
            with self._archive.index.read() as conn:
                for study, series, maker in conn.execute(wanted):
                    each = told.setdefault(
                        series,
                        {"study_instance_uid": study, "series_instance_uid": series, "instances": 0, "made_by": []},
                    )
                    each["instances"] += 1
                    if maker and maker not in each["made_by"]:
                        each["made_by"] = sorted([*each["made_by"], maker])
        return list(told.values())

    def _within(self, asked: ups_task.References, principal: Principal) -> list[str]:
        """The instances of a series, or of a study, without its results."""
        i, r, s = schema.instance.c, schema.series.c, schema.study.c
        wanted = (
            select(i.sop_instance_uid)
            .join_from(schema.instance, schema.series, r.id == i.series_key)
            .join(schema.study, s.id == i.study_key)
            .where(s.study_instance_uid == asked.study_instance_uid)
        )
        if asked.series_instance_uid is not None:
            wanted = wanted.where(r.series_instance_uid == asked.series_instance_uid)
        else:
            wanted = wanted.where(i.result_of.is_(None))
        if principal.scope:
            wanted = wanted.where(s.scope == principal.scope)
        with self._archive.index.read() as conn:
            return list(conn.scalars(wanted))

    def _makers(self, uids: Sequence[str], principal: Principal) -> dict[str, str]:
        """The Workitem that made each of these instances; "" of those that came from outside."""
        i, s = schema.instance.c, schema.study.c
        found: dict[str, str] = {}
        with self._archive.index.read() as conn:
            for start in range(0, len(uids), _AT_ONCE):
                wanted = (
                    select(i.sop_instance_uid, i.result_of)
                    .join_from(schema.instance, schema.study, s.id == i.study_key)
                    .where(i.sop_instance_uid.in_(uids[start : start + _AT_ONCE]))
                )
                if principal.scope:
                    wanted = wanted.where(s.scope == principal.scope)
                found |= {uid: maker or "" for uid, maker in conn.execute(wanted)}
        return found

    def _outputs(self, workitem: str, attributes: Mapping[str, Any], principal: Principal) -> list[dict[str, Any]]:
        """The results of a Workitem that are here; those, too, that an equal task before it had made already."""
        named = [sop for each in ups_task.outputs_of(attributes) for _, sop in each.instances]
        i, r, s = schema.instance.c, schema.series.c, schema.study.c
        wanted = (
            select(s.study_instance_uid, r.series_instance_uid, i.sop_instance_uid, i.sop_class_uid, i.digest)
            .join_from(schema.instance, schema.series, r.id == i.series_key)
            .join(schema.study, s.id == i.study_key)
            .where((i.result_of == workitem) | i.sop_instance_uid.in_(named[:_AT_ONCE]))
            .order_by(i.id)
        )
        if principal.scope:
            wanted = wanted.where(s.scope == principal.scope)
        with self._archive.index.read() as conn:
            found = [dict(row._mapping) for row in conn.execute(wanted)]
        for each in found:
            each["kind"] = STORAGE_SOP_CLASSES.get(each["sop_class_uid"], each["sop_class_uid"])
        return found

    def _record(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The record in the first result that has one."""
        from pacs.auth import SYSTEM

        for each in found[:1]:
            locations = self._archive.retrieve.locate(
                SYSTEM, each["study_instance_uid"], each["series_instance_uid"], each["sop_instance_uid"]
            )
            [raw] = self._archive.retrieve.metadata(locations[:1])
            metadata = json.loads(raw.replace(b"\xff", b""))
            if (kept := record.read(metadata)) is not None:
                return kept
        return {}


def _parameters(attributes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return ups_task.parameters_of(attributes)
    except ArchiveError:
        return {}


# The page ------------------------------------------------------------------------------------------------------------

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1b1b1b;"
    "background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ccc;vertical-align:top;overflow-wrap:anywhere}"
    "th{font-weight:600}section section{margin-left:1.5rem;border-left:3px solid #ccc;padding-left:1rem}"
)


def page(told: Mapping[str, Any]) -> str:
    """A provenance as an HTML page that needs nothing else; no patient is named."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Provenance</title><style>{_STYLE}</style></head><body><main>{''.join(_section(told, 1))}</main>"
        "</body></html>"
    )


def _section(told: Mapping[str, Any], level: int) -> Iterator[str]:
    plugin = told.get("plugin") or {}
    heading = min(level, 6)
    title = f"{plugin.get('title') or told['workitem']} {plugin.get('version', '')}".strip()
    yield f"<section><h{heading}>{escape(title)}</h{heading}><table>"
    for name, value in (
        ("Workitem", told["workitem"]),
        ("Label", told.get("label")),
        ("State", told.get("state")),
        ("Plug-in", plugin.get("id")),
        ("Package", told.get("package")),
        ("Computed with", told.get("backend")),
        ("Task key", told.get("task")),
        ("Digest of the inputs", told.get("inputs_digest")),
        *((f"Parameter {key}", _shown(value)) for key, value in (told.get("parameters") or {}).items()),
    ):
        if value not in (None, ""):
            yield f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
    yield "</table>"
    yield from _table("Made of", told.get("inputs") or (), ("study_instance_uid", "series_instance_uid", "instances"))
    yield from _table("Came out", told.get("outputs") or (), ("kind", "sop_instance_uid", "digest"))
    upwards = told.get("upwards") or ()
    if upwards:
        yield "<p>Some of its inputs are results themselves:</p>"
    for each in upwards:
        yield from _section(each, level + 1)
    yield "</section>"


def _table(title: str, items: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    if not items:
        return
    heads = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in columns)
    yield f"<h2>{escape(title)}</h2><table><thead><tr>{heads}</tr></thead><tbody>"
    for each in items:
        cells = "".join(f"<td>{escape(str(each.get(name, '')))}</td>" for name in columns)
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table>"


def _shown(value: Any) -> str:
    return "automatic" if value is None else json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
