"""A Workitem that a rule makes, with what it supersedes, in one transaction that holds what it was made of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from analysis import chains
from analysis.matching import Match
from analysis.plans import Study
from analysis.registry import job_key
from analysis.rules import Rule, Rules
from pacs import uids
from pacs.auth import SYSTEM
from pacs.dicom import ups, ups_task
from pacs.index import workitems

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.index.workitems import WorkitemRow

log = logging.getLogger("m3dicom.trigger")

TRIES = 5


class Moved(Exception):
    """What a Workitem was about to be made of has changed since it was read."""


def until_it_holds(look: Callable[[], list[str]]) -> list[str]:
    """What `look` makes; it looks again where something came while it did."""
    for _ in range(TRIES):
        with suppress(Moved):
            return look()
    return []  # it goes on moving: once it has come to rest it is looked at again


class Making:
    """Makes the Workitems of rules."""

    def __init__(self, archive: Archive, rules: Rules) -> None:
        self._archive = archive
        self._rules = rules

    def create(
        self, rule: Rule, about: Study, built_on: str, inputs: Sequence[Match], comments: str, now: float
    ) -> str | None:
        """The UID of a new Workitem, None where there is one already. Raises Moved where what was read has changed.

        One that a batch has made for the very same is the rule's from then on, too, and as urgent as the rule wants it.

        Looking, making and superseding is one transaction: of servers that look at once one makes it, and one that
        stood still between reading and making finds that others went on.
        """
        worklist, installed = self._archive.worklist, rule.installed
        manifest, params = installed.manifest, installed.params(rule.parameters)
        key = job_key(manifest, params, [each.identity for match in inputs for each in match.instances])
        written = installed.written(params)
        principal = replace(SYSTEM, scope=about.scope)
        label, patient = f"{manifest.title}: {inputs[0].label}", inputs[0].instances[0].corrected
        references = [reference for match in inputs for reference in match.references]

        def work(conn: Connection) -> str | None:
            if not about.unchanged(conn) or (built_on and not chains.holds(conn, built_on)):
                raise Moved
            known = workitems.of_plugin(conn, manifest.id, about.study_instance_uid)
            current = next((row for row in known if row.task_key == key), None)
            if current is not None:
                does = worklist.join(conn, current.uid, rule.priority, rule.name)
                if does is None and workitems.of_task(conn, key) is None:
                    raise Moved  # its batch withdrew it at this very moment
                return None
            older = [row for row in known if self._replaces(conn, rule, row, inputs, written)]
            if not rule.late and not all(_waits_for_another(row, manifest.version) for row in older):
                return None
            uid = _free_uid(conn, key)
            attributes = ups_task.build(
                plugin=manifest.id,
                title=manifest.title,
                label=label,
                parameters=written,
                inputs=references,
                patient=patient,
                now=now,
                priority=rule.priority,
                replaces=[row.uid for row in reversed(older)],
                comments=comments,
            )
            kept = ups.created(attributes, uid, time.time())
            worklist.lock(conn, kept, [row.uid for row in older])
            worklist.add(conn, uid, kept, principal, task=key, version=manifest.version, rule=rule.name)
            for row in older:
                worklist.supersede_within(conn, row.uid, uid)
            return uid

        made = self._archive.index.transact(work)
        if made is not None:
            worklist.wake()
            log.info("Workitem %s made by rule %s for plug-in %s %s", made, rule.name, manifest.id, manifest.version)
        return made

    def _replaces(
        self,
        conn: Connection,
        rule: Rule,
        row: WorkitemRow,
        inputs: Sequence[Match],
        written: Sequence[ups_task.Parameter],
    ) -> bool:
        """Whether a task of the rule on `inputs` replaces an older one: same rule, same study, series or instance.

        A rule that is no more is replaced as well, and what a batch made with the same parameters. Results of a task
        are those of the same input when theirs replace the older's.
        """
        if row.superseded_by or (row.rule is not None and row.rule != rule.name and self._rules.get(row.rule)):
            return False
        if row.rule is None and ups_task.parameters_of(row.attributes) != ups_task.read_back(written):
            return False
        references = ups_task.references_of(row.attributes)
        if not references:
            return False
        match inputs[0].level:
            case "study":
                target: str | None = references[0].study_instance_uid
            case "series":
                target = references[0].series_instance_uid
            case _:
                target = references[0].instances[0][1] if references[0].instances else None
        same = target == inputs[0].target
        first = inputs[0].instances[0]
        return same if first.result_of is None else _made_by_older(conn, references, first.result_of, same)


def _free_uid(conn: Connection, key: str) -> str:
    """The UID that derives from a task key, and where one with that was withdrawn, another that does."""
    again = 0
    uid = uids.derived("workitem", key)
    while workitems.get(conn, uid) is not None or workitems.is_gone(conn, uid):
        again += 1
        uid = uids.derived("workitem", key, again)
    return uid


def _waits_for_another(row: WorkitemRow, version: str) -> bool:
    """Whether nothing was analysed yet, and that was to be done by another version."""
    return not row.state.final and row.lease_token is None and row.needs_version not in ("", version)


def _made_by_older(conn: Connection, references: Sequence[ups_task.References], uid: str, same: bool) -> bool:
    """Whether the instances are results of a Workitem that the one with this UID replaces.

    Or, where they are its own, the `same` of them: of several results of one task each may be what a task is about.
    """
    named = [sop for each in references for _, sop in each.instances][:1]
    owners = workitems.owners(conn, named)
    return any((same and owner == uid) or _superseded_by(conn, owner) == uid for owner in owners)


def _superseded_by(conn: Connection, uid: str) -> str | None:
    row = workitems.get(conn, uid)
    return None if row is None else row.superseded_by
