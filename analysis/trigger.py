"""From news to work: rules look at each study that has become stable and at each task that is done, and make Workitems.

Reads `change` from the durable cursor "trigger"; what a rule waits for is a row (`pacs.index.rule_waits`), so that
nothing of it is lost with the process. Whatever happens twice makes nothing twice: a Workitem's UID and task key derive
from its inputs. What comes late changes the inputs: a new Workitem is made that supersedes the old one. What a process
has read is looked at again in the transaction that makes a Workitem of it: one that stood still meanwhile makes none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from pacs.index import rule_waits, waiting, workitems

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.index.workitems import WorkitemRow
    from pacs.workforce import Workforce

log = logging.getLogger("m3dicom.trigger")

_PASSING = (Unavailable, OutOfResources, SQLAlchemyError, OSError, MemoryError)
"""Failures after which all is looked at again: the cursor stays where it is."""

CURSOR = "trigger"
BATCH = 1000
TRIES = 5
VERSIONS_EVERY_S = 30.0


class Trigger:
    """Turns stable studies, and results that others build on, into Workitems."""

    def __init__(
        self,
        archive: Archive,
        registry: Registry,
        *,
        made: Rules | None = None,
        priors: Priors | None = None,
        workforce: Workforce | None = None,
    ) -> None:
        """`workforce` tells which versions of plug-ins workers have; None where that is not known.

        Raises InvalidInput, naming the rule, for rules of the settings that cannot be.
        """
        self._archive = archive
        self._registry = registry
        self._workforce = workforce
        self._versions_seen_at = 0.0
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
        now = time.time() if now is None else now
        return made + self._look_again(now) + self._make_anew(now)

    def plan(self, study_instance_uid: str, principal: Principal, now: float) -> list[str]:
        """Make the Workitems that the study's instances ask for and that are not there yet; their UIDs."""
        with self._archive.index.read() as conn:
            if rule_waits.is_prior(conn, study_instance_uid):
                return []
        return self._applied(study_instance_uid, [r for r in self.rules if not r.results_of], principal, now)

    def _applied(self, study: str, rules: Sequence[Rule], principal: Principal, now: float) -> list[str]:
        """Let rules look at what has arrived of a study."""

        def look() -> list[str]:
            about = plans.study(self._archive.index, study)
            if about is None:
                return []
            found = candidates(self._archive.index, study, principal)
            made = []
            for rule in rules:
                made += self._apply(rule, about, "", plans.judge(rule, about, found, now), now)
            return made

        return _until_it_holds(look)

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
                        principal = replace(SYSTEM, scope=wait.scope)
                        made += len(self._applied(wait.study_instance_uid, [rule], principal, now))
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
                uid = self._create(rule, about, key, inputs, comments, now)
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

        def look() -> list[str]:
            made = []
            for rule, about, verdict in chains.verdicts(self._archive, self.rules, uid):
                made += self._apply(rule, about, uid, verdict, now)
            return made

        return _until_it_holds(look)

    # Versions

    def _make_anew(self, now: float) -> int:
        """Make again, for the version that is here, what was made for one that no worker has; how many were made.

        Only where a worker has the version that is here: servers with different ones leave each other's tasks alone.
        """
        if self._workforce is None or abs(now - self._versions_seen_at) < VERSIONS_EVERY_S:
            return 0
        self._versions_seen_at = now
        with self._archive.index.read() as conn:
            lanes = waiting.lanes(conn)
        here = {each.id: each.manifest.version for each in self._registry}
        others = [lane for lane in lanes if lane[1] and here.get(lane[0], lane[1]) != lane[1]]
        posts = self._workforce.present(now) if others else ()
        made = 0
        for plugin, version in others:
            taken = any(post.takes(plugin, version) for post in posts)
            if taken or not any(post.takes(plugin, here[plugin]) for post in posts):
                continue
            with self._archive.index.read() as conn:
                rows = waiting.stranded(conn, (plugin, version), BATCH)
            log.info("plug-in %s: %d tasks wait for version %s, which no worker has", plugin, len(rows), version)
            for about in dict.fromkeys((row.rule, row.study_instance_uid, self._built_on(row)) for row in rows):
                with _alone(f"study {about[1]}"):
                    made += self._again(*about, now)
        return made

    def _built_on(self, row: WorkitemRow) -> str:
        """The Workitem whose results a task works on, "" where it works on what arrived."""
        rule = self.rules.get(row.rule or "")
        if rule is None or not rule.results_of:
            return ""
        named = [sop for each in ups_task.references_of(row.attributes) for _, sop in each.instances][:1]
        with self._archive.index.read() as conn:
            return next(iter(workitems.owners(conn, named)), "")

    def _again(self, rule_name: str | None, study: str | None, built_on: str, now: float) -> int:
        rule = self.rules.get(rule_name or "")
        about = plans.study(self._archive.index, study or "")
        if rule is None or about is None or not about.stable:
            return 0  # nothing of ours to make; or the rule looks when the study has come to rest
        if built_on:
            return len(self._build_on(built_on, now))
        return len(self._applied(about.study_instance_uid, [rule], replace(SYSTEM, scope=about.scope), now))

    # Workitems

    def _create(
        self, rule: Rule, about: Study, built_on: str, inputs: Sequence[Match], comments: str, now: float
    ) -> str | None:
        """The UID of a new Workitem, None where there is one already. Raises _Moved where what was read has changed.

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
        uid = uids.derived("workitem", key)

        def work(conn: Connection) -> str | None:
            if not about.unchanged(conn) or (built_on and not chains.holds(conn, built_on)):
                raise _Moved
            known = workitems.of_plugin(conn, manifest.id, about.study_instance_uid)
            current = next((row for row in known if row.task_key == key), None)
            if current is not None:
                return None
            older = [row for row in known if self._replaces(conn, rule, row, inputs, written)]
            if not rule.late and not all(_waits_for_another(row, manifest.version) for row in older):
                return None
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
            worklist.add(conn, uid, kept, principal, task=key, version=manifest.version, rule=rule.name)
            for row in older:
                worklist.supersede_within(conn, row.uid, uid)
            return uid

        made = self._archive.index.transact(work)
        if made is not None:
            worklist.wake()
            log.info("Workitem %s made by rule %s for plug-in %s %s", uid, rule.name, manifest.id, manifest.version)
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
        if row.superseded_by or (row.rule is not None and row.rule != rule.name and self.rules.get(row.rule)):
            return False
        if row.rule is None and ups_task.parameters_of(row.attributes) != ups_task.read_back(written):
            return False
        references = ups_task.references_of(row.attributes)
        if not references:
            return False
        first = inputs[0].instances[0]
        if first.result_of is not None:
            return _made_by_older(conn, references, first.result_of)
        match inputs[0].level:
            case "study":
                target: str | None = references[0].study_instance_uid
            case "series":
                target = references[0].series_instance_uid
            case _:
                target = references[0].instances[0][1] if references[0].instances else None
        return target == inputs[0].target


class _Moved(Exception):
    """What a Workitem was about to be made of has changed since it was read."""


def _until_it_holds(look: Callable[[], list[str]]) -> list[str]:
    """What `look` makes; it looks again where something came while it did."""
    for _ in range(TRIES):
        with suppress(_Moved):
            return look()
    return []  # it goes on moving: once it has come to rest it is looked at again


@contextmanager
def _alone(about: str) -> Iterator[None]:
    """What nobody has thought of in one study is logged, and stops no other one; a failure that may pass goes on up."""
    try:
        yield
    except _PASSING:
        raise
    except Exception:
        log.exception("rules: %s", about)


def _waits_for_another(row: WorkitemRow, version: str) -> bool:
    """Whether nothing was analysed yet, and that was to be done by another version."""
    return not row.state.final and row.lease_token is None and row.needs_version not in ("", version)


def _made_by_older(conn: Connection, references: Sequence[ups_task.References], uid: str) -> bool:
    """Whether the instances are results of a Workitem that the one with this UID replaces, or of itself."""
    named = [sop for each in references for _, sop in each.instances][:1]
    owners = workitems.owners(conn, named)
    return any(owner == uid or _superseded_by(conn, owner) == uid for owner in owners)


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
