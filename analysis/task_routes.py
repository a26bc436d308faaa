"""/api/tasks and /api/rules: tasks, why they ended, dead letters taken up again or discarded, what rules would do."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field as Member

from analysis import plans
from analysis.matching import candidates
from analysis.rules import Rule, Rules
from analysis.tests_in_words import written
from pacs import uids
from pacs.auth import SYSTEM, Principal, Right
from pacs.dicom.ups import PRIORITIES, State
from pacs.errors import InvalidInput, NotFound
from pacs.index import rule_waits
from pacs.json_api import NUMBER, TEXT, UID, Asked, Body, Field, Row
from pacs.leases import ENDS
from pacs.tasks import LISTED_AT_MOST, Tasks

if TYPE_CHECKING:
    from analysis.plans import Study
    from pacs.archive import Archive
    from pacs.workforce import Workforce

LISTED = 100
_MAYBE_TEXT = {"type": ["string", "null"]}
_TIME = {"type": "number", "description": "Unix seconds"}
_TASK: dict[str, Any] = {
    "type": "object",
    "properties": {
        "uid": UID, "state": {"enum": [str(each) for each in State]}, "plugin": TEXT, "version": _MAYBE_TEXT,
        "rule": _MAYBE_TEXT | {"description": "null: a request"}, "label": TEXT, "priority": {"enum": list(PRIORITIES)},
        "study_instance_uid": _MAYBE_TEXT, "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "message": TEXT, "reason": TEXT,
        "ended": {"enum": [*ENDS, None], "description": 'Why it is in its final state; "failed" is a dead letter'},
        "superseded_by": _MAYBE_TEXT, "attempt": NUMBER, "worker": _MAYBE_TEXT,
        "start_at": {"type": ["number", "null"]},
        "waits_for": {"type": "string", "description": "Besides its turn: a version that no worker has, say"},
        "created_at": _TIME, "updated_at": _TIME, "principal": TEXT,
    },
    "required": [
        "uid", "state", "plugin", "label", "priority", "progress", "message", "reason", "attempt", "waits_for",
    ],
}  # fmt: skip
_VERDICT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rule": TEXT, "plugin": TEXT, "verdict": {"enum": ["runs", "has run", "waits", "does nothing"]}, "why": TEXT,
        "tasks": {"type": "array", "items": TEXT, "description": "What it takes, as Workitems are labelled"},
        "until": {"type": ["number", "null"], "description": "Unix seconds"},
    },
    "required": ["rule", "plugin", "verdict", "why", "tasks", "until"],
}  # fmt: skip
_RULE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rule": TEXT, "plugin": TEXT, "own": {"type": "boolean", "description": "The plug-in's own rule"},
        "when": {"type": "array", "items": TEXT}, "results_of": {"type": "array", "items": TEXT},
        "priority": {"enum": list(PRIORITIES)}, "parameters": {"type": "object"},
    },
    "required": ["rule", "plugin", "own", "when", "results_of", "priority", "parameters"],
}  # fmt: skip
_WAIT: dict[str, Any] = {
    "type": "object",
    "properties": {"rule": TEXT, "study_instance_uid": UID, "why": TEXT, "since": _TIME, "due_at": _TIME,
                   "answer": _MAYBE_TEXT},
    "required": ["rule", "study_instance_uid", "why", "since", "due_at", "answer"],
}  # fmt: skip


class Letters(Body):
    """Dead letters: those that are named, or all of a plug-in."""

    uids: tuple[str, ...] = Member((), max_length=LISTED_AT_MOST)
    plugin: str | None = None


def rows(archive: Archive, rules: Rules, workforce: Workforce) -> list[Row]:
    """The rows of the JSON API."""
    tasks = Tasks(archive.worklist, workforce)
    study = Field("study", "Only of this Study Instance UID.", UID)
    plugin = Field("plugin", "Only of the plug-in with this id.")
    return [
        Row(
            "GET", "/api/tasks", lambda asked: _listed(tasks, asked),
            "Tasks, the last changed first, with why they ended.",
            tag="tasks", right=Right.QUERY,
            query=(
                Field("ended", 'Only those that ended so: "failed" are the dead letters.', {"enum": list(ENDS)}),
                Field("state", "Only in this Procedure Step State.", {"enum": [str(each) for each in State]}),
                plugin, study,
                Field("before", "Only what changed before: `updated_at` of the last one of the page before.", TEXT),
                Field("limit", f"At most so many, up to {LISTED_AT_MOST}.", NUMBER),
            ),
            answer={"type": "array", "items": _TASK},
        ),
        Row(
            "GET", "/api/tasks/{uid}", lambda asked: _plain(tasks.get(asked.path["uid"], asked.principal)),
            "One task; all of it is the Workitem of the same UID.",
            tag="tasks", right=Right.QUERY, answer=_TASK, errors=(404,),
        ),
        Row(
            "POST", "/api/tasks/requeue", lambda asked: {"requeued": _requeue(tasks, asked.principal, asked.body)},
            "Take dead letters up again: each becomes a new Workitem that replaces it.",
            tag="tasks", right=Right.PROCESS, body=Letters, errors=(404, 409),
            answer={"type": "object", "properties": {"requeued": {"type": "object", "additionalProperties": UID}},
                    "required": ["requeued"]},
        ),
        Row(
            "POST", "/api/tasks/discard", lambda asked: {"discarded": _discard(tasks, asked.principal, asked.body)},
            "Discard dead letters: they are listed no more as such.",
            tag="tasks", right=Right.PROCESS, body=Letters, errors=(404, 409),
            answer={"type": "object", "properties": {"discarded": {"type": "array", "items": UID}},
                    "required": ["discarded"]},
        ),
        Row(
            "GET", "/api/rules", lambda _: [_rule(rule) for rule in rules],
            "Rules that start plug-ins: those of the settings, then the plug-ins' own.",
            tag="tasks", right=Right.QUERY, answer={"type": "array", "items": _RULE},
        ),
        Row(
            "GET", "/api/rules/test",
            lambda asked: tested(archive, rules, asked.query["study"], asked.principal, time.time()),
            "What each rule would do with a study now, and why not.",
            tag="tasks", right=Right.QUERY, errors=(404,),
            query=(Field("study", "Its Study Instance UID.", UID, required=True),),
            answer={"type": "array", "items": _VERDICT},
        ),
        Row(
            "GET", "/api/rules/waiting", lambda asked: _waiting(archive, asked),
            "What rules wait for, the longest first.",
            tag="tasks", right=Right.QUERY, query=(study,), answer={"type": "array", "items": _WAIT},
        ),
    ]  # fmt: skip


def _plain(task: Any) -> dict[str, Any]:
    return asdict(task)


def _listed(tasks: Tasks, asked: Asked) -> list[dict[str, Any]]:
    query = asked.query
    before = query.get("before")
    try:
        moment = None if before is None else float(before)
    except ValueError:
        raise InvalidInput('"before" is a number of seconds') from None
    found = tasks.listed(
        asked.principal, ended=query.get("ended"), state=query.get("state"), plugin=query.get("plugin"),
        study=query.get("study"), before=moment, limit=asked.count("limit", LISTED, LISTED_AT_MOST),
    )  # fmt: skip
    return [_plain(each) for each in found]


def _requeue(tasks: Tasks, principal: Principal, letters: Letters) -> dict[str, str]:
    return tasks.requeue(letters.uids, principal, plugin=letters.plugin)


def _discard(tasks: Tasks, principal: Principal, letters: Letters) -> list[str]:
    return tasks.discard(letters.uids, principal, plugin=letters.plugin)


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.name, "plugin": rule.installed.id, "own": rule.own, "when": list(map(written, rule.tests)),
        "results_of": sorted(rule.results_of), "priority": rule.priority, "parameters": dict(rule.parameters),
    }  # fmt: skip


def _waiting(archive: Archive, asked: Asked) -> list[dict[str, Any]]:
    with archive.index.read() as conn:
        found = rule_waits.listed(conn, asked.principal.scope, asked.query.get("study"))
    return [
        {"rule": each.rule, "study_instance_uid": each.study_instance_uid, "why": each.why, "since": each.since,
         "due_at": each.due_at, "answer": each.answer}
        for each in found
    ]  # fmt: skip


def tested(archive: Archive, rules: Rules, study: str, principal: Principal, now: float) -> list[dict[str, Any]]:
    """What each rule would do with the study now: nothing is made. Raises InvalidUID and NotFound."""
    about = plans.study(archive.index, uids.checked(study, "Study Instance UID"))
    if about is None or (principal.scope and about.scope != principal.scope):
        raise NotFound("no such study", about=study)
    with archive.index.read() as conn:
        fetched = rule_waits.is_prior(conn, study, now)
    return [_verdict(archive, rule, about, fetched, now) for rule in rules]


def _verdict(archive: Archive, rule: Rule, about: Study, fetched: bool, now: float) -> dict[str, Any]:
    told: dict[str, Any] = {"rule": rule.name, "plugin": rule.installed.id, "tasks": [], "until": None}
    if rule.results_of:
        names = ", ".join(sorted(rule.results_of))
        return told | {"verdict": "does nothing", "why": f"it looks at results of {names}, once there are new ones"}
    if fetched:
        return told | {"verdict": "does nothing", "why": "the study was fetched as an earlier one of another"}
    found = candidates(archive.index, about.study_instance_uid, replace(SYSTEM, scope=about.scope))
    judged = plans.judge(rule, about, found, now)
    told["tasks"] = [each[0].label for each in judged.tasks]
    if not about.stable and (judged.tasks or judged.waits_until is not None):
        quiet = max(archive.settings.stable_after_s, rule.quiet_s)
        return told | {"verdict": "waits", "why": "instances still arrive", "until": about.last_instance_at + quiet}
    if judged.waits_until is not None:
        return told | {"verdict": "waits", "why": judged.why, "until": judged.waits_until}
    if not judged.tasks:
        return told | {"verdict": "does nothing", "why": judged.why}
    known = archive.worklist.of_plugin(rule.installed.id, about.study_instance_uid)
    done = sum(row.rule == rule.name and not row.superseded_by for row in known)
    if done >= len(judged.tasks):
        return told | {"verdict": "has run", "why": "its tasks are made: /api/tasks tells how they ended"}
    return told | {"verdict": "runs", "why": "; ".join(judged.comments.values())}
