"""From news to work: rules look at each study that has become stable and at each task that is done, and make Workitems.

Reads `change` from the durable cursor "trigger"; what a rule waits for is a row (`pacs.index.rule_waits`), so that
nothing of it is lost with the process. Whatever happens twice makes nothing twice: a Workitem's UID and task key derive
from its inputs. What comes late changes the inputs: a new Workitem is made that supersedes the old one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from analysis import chains, plans, rules
from analysis.api import Input, NotAnalysable
from analysis.matching import Match, candidates
from analysis.plans import Study, Verdict
from analysis.priors import Priors
from analysis.registry import Registry, job_key
from analysis.rules import Rule, Rules
from pacs import uids
from pacs.auth import SYSTEM, Principal
from pacs.dicom import ups, ups_task
from pacs.errors import ArchiveError, OutOfResources, Unavailable
from pacs.index import rule_waits, workitems

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.index.workitems import WorkitemRow

log = logging.getLogger("m3dicom.trigger")

_PASSING = (Unavailable, OutOfResources, SQLAlchemyError, OSError, MemoryError)
"""Failures after which all is looked at again: the cursor stays where it is."""

CURSOR = "trigger"
BATCH = 1000


class Trigger:
    """Turns stable studies, and results that others build on, into Workitems."""

    def __init__(
        self, archive: Archive, registry: Registry, *, made: Rules | None = None, priors: Priors | None = None
    ) -> None:
        """Raises InvalidInput, naming the rule, for rules of the settings that cannot be."""
        self._archive = archive
        self.rules = made or rules.load(archive.settings, registry)
        self._priors = priors or Priors(archive)
        self._chained = frozenset(plugin for rule in self.rules for plugin in rule.results_of)
        self._resumed = False

    def close(self) -> None:
        """Ask nobody for anything any more."""
        self._priors.close()

    def step(self, now: float | None = None) -> int:
        """Handle what is new and what is due; how many Workitems were made. Several processes may do so at once."""
        made = 0
        changes = self._archive.changes
        if not self._resumed:
            self._archive.index.transact(lambda conn: rule_waits.unanswered(conn, time.time()))
            self._resumed = True
        more = True
        while more:  # until the end is reached, not until nothing new comes meanwhile
            batch = changes.after(changes.cursor(CURSOR), BATCH)
            if not batch:
                break
            more = len(batch) == BATCH
            studies = {c.study_instance_uid: c.scope for c in batch if c.kind == "stable" and c.study_instance_uid}
            for study, scope in studies.items():
                with _alone(f"study {study}"):
                    made += len(self.plan(study, replace(SYSTEM, scope=scope), time.time() if now is None else now))
            moved = [c.workitem_uid for c in batch if c.kind == "workitem" and c.workitem_uid] if self._chained else []
            for uid in dict.fromkeys(moved):
                with _alone(f"results of Workitem {uid}"):
                    made += len(self._build_on(uid, time.time() if now is None else now))
            self._archive.index.transact(partial(changes.advance, name=CURSOR, seq=batch[-1].seq))
        return made + self._look_again(time.time() if now is None else now)

    def plan(self, study_instance_uid: str, principal: Principal, now: float) -> list[str]:
        """Make the Workitems that the study's instances ask for and that are not there yet; their UIDs."""
        with self._archive.index.read() as conn:
            if rule_waits.is_prior(conn, study_instance_uid):
                return []
        about = plans.study(self._archive.index, study_instance_uid)
        if about is None:
            return []
        found = candidates(self._archive.index, study_instance_uid, principal)
        made = []
        for rule in self.rules:
            if not rule.results_of:
                made += self._apply(rule, about, "", plans.judge(rule, about, found, now), now)
        return made

    # What rules wait for

    def _look_again(self, now: float) -> int:
        """Let the rules whose time has come look at their studies again; how many Workitems were made."""
        index = self._archive.index
        with index.read() as conn:
            ahead = rule_waits.ahead(conn, now)
        if ahead:
            index.transact(lambda conn: rule_waits.put_back(conn, now))
        with index.read() as conn:
            due = rule_waits.due(conn, now)
        made = 0
        for wait in due:
            rule = self.rules.get(wait.rule)
            about = plans.study(index, wait.study_instance_uid)
            if rule is None or about is None or (not wait.about and not about.stable):
                # The rule or the study is gone; or something new came, and the rule looks when it has come to rest.
                index.transact(
                    partial(rule_waits.drop, rule=wait.rule, study=wait.study_instance_uid, about=wait.about)
                )
            else:
                with _alone(f"study {wait.study_instance_uid}"):
                    if wait.about:
                        made += len(self._build_on(wait.about, now))
                    else:
                        found = candidates(index, wait.study_instance_uid, replace(SYSTEM, scope=wait.scope))
                        made += len(self._apply(rule, about, "", plans.judge(rule, about, found, now), now))
                self._forget(wait)
        return made

    def _forget(self, wait: rule_waits.Wait) -> None:
        """Wait no longer where nobody looked: what it is about has been superseded, or cannot be looked at."""
        with self._archive.index.read() as conn:
            left = rule_waits.get(conn, wait.rule, wait.study_instance_uid, wait.about)
        if left == wait:
            drop = partial(rule_waits.drop, rule=wait.rule, study=wait.study_instance_uid, about=wait.about)
            self._archive.index.transact(drop)

    def _apply(self, rule: Rule, about: Study, key: str, verdict: Verdict, now: float) -> list[str]:
        """Make what the rule asks for now, and note what it waits for; the UIDs of new Workitems."""
        made = []
        waits = [] if verdict.waits_until is None else [(verdict.waits_until, verdict.why)]
        ask = False
        for inputs in verdict.tasks:
            comments = verdict.comments.get(inputs[0].target, "")
            try:
                if rule.prior_input is not None:
                    earlier = self._earlier(rule, about, key, rule.prior_input, now)
                    if isinstance(earlier, _Awaited):
                        waits.append((earlier.until, earlier.why))
                        ask |= earlier.ask
                        continue
                    inputs = (*inputs, *earlier.matches)
                    comments = "; ".join(filter(None, (comments, earlier.comment)))
                uid = self._create(rule, inputs, comments, replace(SYSTEM, scope=about.scope), now)
            except (Unavailable, OutOfResources):
                raise  # see _PASSING
            except (ArchiveError, NotAnalysable) as error:
                log.error("rule %s: no Workitem on study %s: %s", rule.name, about.study_instance_uid, error)
                continue
            if uid is not None:
                made.append(uid)
        self._note(rule, about, key, min(waits, default=None), now)
        if ask:
            study = about.study_instance_uid
            if self._archive.index.transact(lambda conn: rule_waits.ask(conn, rule.name, study, key, now)):
                self._priors.ask(rule, about, key)
        return made

    def _note(self, rule: Rule, about: Study, key: str, wait: tuple[float, str] | None, now: float) -> None:
        study, index = about.study_instance_uid, self._archive.index
        if wait is not None:
            due_at, why = wait
            index.transact(lambda conn: rule_waits.put(conn, rule.name, study, key, about.scope, now, due_at, why))
            return
        with index.read() as conn:
            held = rule_waits.get(conn, rule.name, study, key) is not None
        if held:
            index.transact(lambda conn: rule_waits.drop(conn, rule.name, study, key))

    def _earlier(self, rule: Rule, about: Study, key: str, wanted: Input, now: float) -> _Earlier | _Awaited:
        """The earlier studies for a task, or what is awaited of them. Raises NotAnalysable: it cannot do without."""
        found = tuple(self._priors.found(rule, about, wanted))
        with self._archive.index.read() as conn:
            wait = rule_waits.get(conn, rule.name, about.study_instance_uid, key)
            arriving = rule_waits.arriving(conn, about.study_instance_uid)
        said = ""
        if len(found) < rule.priors and rule.priors_from:
            if wait is None or wait.asked_at is None:
                names = ", ".join(rule.priors_from)
                return _Awaited(now + rule.wait_s, f"{names}: asked for earlier studies", ask=True)
            until = wait.asked_at + rule.wait_s
            if now < until and wait.answer is None:
                return _Awaited(until, wait.why)
            if now < until and arriving:
                return _Awaited(min(until, now + 1.0), "earlier studies are arriving")
            said = wait.answer or f"{', '.join(rule.priors_from)}: no answer within {rule.wait_s:g} s"
        if not found:
            said = f"no earlier study fits{f' ({said})' if said else ''}"
            if not wanted.optional:
                raise NotAnalysable(said)
        return _Earlier(found, said if len(found) < rule.priors else "")

    # Results that others build on

    def _build_on(self, uid: str, now: float) -> list[str]:
        """Make the Workitems that rules ask for on the results of a Workitem; their UIDs."""
        made = []
        for rule, about, verdict in chains.verdicts(self._archive, self.rules, uid):
            made += self._apply(rule, about, uid, verdict, now)
        return made

    # Workitems

    def _create(
        self, rule: Rule, inputs: Sequence[Match], comments: str, principal: Principal, now: float
    ) -> str | None:
        worklist, installed = self._archive.worklist, rule.installed
        manifest, params = installed.manifest, installed.params(rule.parameters)
        key = job_key(manifest, params, [each.identity for match in inputs for each in match.instances])
        known = worklist.of_plugin(manifest.id, inputs[0].instances[0].study_instance_uid)
        if any(row.task_key == key for row in known):
            self._supersede_again(key, known)
            return None
        written = installed.written(params)
        older = [row for row in known if self._replaces(rule, row, inputs, written)]
        if older and not rule.late:
            return None
        attributes = ups_task.build(
            plugin=manifest.id,
            title=manifest.title,
            label=f"{manifest.title}: {inputs[0].label}",
            parameters=written,
            inputs=[reference for match in inputs for reference in match.references],
            patient=inputs[0].instances[0].corrected,
            now=now,
            priority=rule.priority,
            replaces=[row.uid for row in reversed(older)],
            comments=comments,
        )
        uid = worklist.create(
            attributes, uids.derived("workitem", key), principal, task=key, version=manifest.version, rule=rule.name
        )
        for row in older:
            worklist.supersede(row.uid, uid)
        log.info("Workitem %s made by rule %s for plug-in %s %s", uid, rule.name, manifest.id, manifest.version)
        return uid

    def _supersede_again(self, key: str, known: Sequence[WorkitemRow]) -> None:
        """End what the Workitem of that key replaces, where the process that made it came no further."""
        current = next(row for row in known if row.task_key == key)
        named = ups.items(current.attributes, ups.REPLACED_PROCEDURE_STEP_SEQUENCE) if not current.superseded_by else ()
        replaced = {str(ups.value(item, ups.REFERENCED_SOP_INSTANCE_UID)) for item in named}
        for row in known:
            if row.uid in replaced and not row.superseded_by and not row.state.final:
                self._archive.worklist.supersede(row.uid, current.uid)

    def _replaces(
        self, rule: Rule, row: WorkitemRow, inputs: Sequence[Match], written: Sequence[ups_task.Parameter]
    ) -> bool:
        """Whether a task of the rule on `inputs` replaces an older one: same rule, same study, series or instance.

        A rule that is no more is replaced as well, and what a batch made with the same parameters. Results of a task
        are those of the same input when theirs replace the older's.
        """
        if row.superseded_by or (row.rule is not None and row.rule != rule.name and self.rules.get(row.rule)):
            return False
        if row.rule is None and ups_task.parameters_of(row.attributes) != ups_task.read_back(written):
            return False
        references = ups_task.references_of(row.attributes)
        if not references:
            return False
        first = inputs[0].instances[0]
        if first.result_of is not None:
            return self._made_by_older(references, first.result_of)
        match inputs[0].level:
            case "study":
                target: str | None = references[0].study_instance_uid
            case "series":
                target = references[0].series_instance_uid
            case _:
                target = references[0].instances[0][1] if references[0].instances else None
        return target == inputs[0].target

    def _made_by_older(self, references: Sequence[ups_task.References], uid: str) -> bool:
        """Whether the instances are results of a Workitem that the one with this UID replaces, or of itself."""
        named = [sop for each in references for _, sop in each.instances][:1]
        with self._archive.index.read() as conn:
            owners = workitems.owners(conn, named)
            return any(owner == uid or _superseded_by(conn, owner) == uid for owner in owners)


@contextmanager
def _alone(about: str) -> Iterator[None]:
    """What nobody has thought of in one study is logged, and stops no other one; a failure that may pass goes on up."""
    try:
        yield
    except _PASSING:
        raise
    except Exception:
        log.exception("rules: %s", about)


def _superseded_by(conn: Connection, uid: str) -> str | None:
    row = workitems.get(conn, uid)
    return None if row is None else row.superseded_by


@dataclass(frozen=True)
class _Earlier:
    """The earlier studies of a task, and what its readers should know of them."""

    matches: tuple[Match, ...]
    comment: str


@dataclass(frozen=True)
class _Awaited:
    """Earlier studies that may still come; with `ask`, somebody has to ask for them first."""

    until: float
    why: str
    ask: bool = False
