"""From news to work: rules look at each study that has become stable and at each task that is done, and make Workitems.

Reads `change` from a durable cursor; what a rule waits for is a row (`pacs.index.rule_waits`), so that nothing of it is
lost with the process. Servers that have the same rules share a cursor; what one of others has read is news to them.
Whatever happens twice makes nothing twice: a Workitem's UID and task key derive from its inputs. What comes late
changes the inputs: a new Workitem is made that supersedes the old one. What a process has read is looked at again in
the transaction that makes a Workitem of it: one that stood still meanwhile makes none.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from analysis import chains, plans, rules
from analysis.api import NotAnalysable
from analysis.earlier import Awaited, Earlier
from analysis.making import Making, until_it_holds
from analysis.matching import candidates
from analysis.plans import Study, Verdict
from analysis.priors import Priors
from analysis.registry import Registry
from analysis.renewal import Renewal
from analysis.requested import Requested
from analysis.rules import Rule, Rules
from pacs.auth import SYSTEM, Principal
from pacs.errors import ArchiveError, OutOfResources, Unavailable
from pacs.index import rule_waits

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.workforce import Workforce

log = logging.getLogger("m3dicom.trigger")

_PASSING = (Unavailable, OutOfResources, SQLAlchemyError, OSError, MemoryError)
"""Failures after which all is looked at again: the cursor stays where it is."""

CURSOR = "trigger"
BATCH = 1000
ABANDONED_S = 7 * 86_400.0
"""After so long it is no other server's rule that waits: nobody has it any more."""


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
        self.rules = made or rules.load(archive.settings, registry)
        self._priors = priors or Priors(archive)
        self._earlier = Earlier(archive, self._priors)
        self._requested = Requested(archive, registry, self.rules, self._earlier)
        self._making = Making(archive, self.rules)
        self._waiting = self._requested.names | {rule.name for rule in self.rules}
        self._renewal = None if workforce is None else Renewal(archive, registry, self.rules, workforce, self._again)
        self._chained = frozenset(plugin for rule in self.rules for plugin in rule.results_of)
        self._resumed = False
        told = "\n".join(sorted(f"{rule.name} {rule.installed.id}" for rule in self.rules))
        self._cursor = f"{CURSOR} {hashlib.sha256(told.encode()).hexdigest()[:16]}"

    def close(self) -> None:
        """Ask nobody for anything any more."""
        self._priors.close()

    def step(self, now: float | None = None) -> int:
        """Handle what is new and what is due; how many Workitems were made. Several processes may do so at once."""
        made = 0
        changes = self._archive.changes
        if not self._resumed:
            self._archive.index.transact(lambda conn: rule_waits.unanswered(conn, time.time()))
            self._archive.index.transact(lambda conn: rule_waits.abandoned(conn, time.time() - ABANDONED_S))
            self._begin()
            self._resumed = True
        more = True
        while more:  # until the end is reached, not until nothing new comes meanwhile
            batch = changes.after(changes.cursor(self._cursor), BATCH)
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
            self._archive.index.transact(partial(changes.advance, name=self._cursor, seq=batch[-1].seq))
        now = time.time() if now is None else now
        made += self._look_again(now)
        return made + (self._renewal.step(now) if self._renewal is not None else 0)

    def _begin(self) -> None:
        """Begin, with rules that no server had before, where the one that is furthest stands: what was is old news."""
        changes, name = self._archive.changes, self._cursor
        if not changes.has_cursor(name):
            least = changes.cursor(name)  # of an index that was made again
            self._archive.index.transact(
                lambda conn: changes.advance(conn, name, max([least, *changes.cursors(conn, CURSOR)]))
            )

    def plan(self, study_instance_uid: str, principal: Principal, now: float) -> list[str]:
        """Make the Workitems that the study's instances ask for and that are not there yet; their UIDs."""
        with self._archive.index.read() as conn:
            if rule_waits.is_prior(conn, study_instance_uid, now):
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

        return until_it_holds(look)

    # What rules wait for

    def _look_again(self, now: float) -> int:
        """Let the rules whose time has come look at their studies again; how many Workitems were made."""
        index = self._archive.index
        with index.read() as conn:
            ahead = rule_waits.ahead(conn, now)
        if ahead:
            index.transact(lambda conn: rule_waits.put_back(conn, now))
        with index.read() as conn:
            due = rule_waits.due(conn, now, self._waiting)
        made = 0
        for wait in due:
            if wait.rule in self._requested.names:
                with _alone(f"Workitem {wait.about}"):
                    self._requested.look(wait, now)
                self._forget(wait)
                continue
            rule = self.rules.get(wait.rule)
            about = plans.study(index, wait.study_instance_uid)
            if rule is None or about is None or (not wait.about and not about.stable):
                # The study is gone; or something new came, and the rule looks when it has come to rest.
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
                    earlier = self._earlier.look(rule, about, key, rule.prior_input, now)
                    if isinstance(earlier, Awaited):
                        waits.append((earlier.until, earlier.why))
                        ask |= earlier.ask
                        continue
                    inputs = (*inputs, *earlier.matches)
                    comments = "; ".join(filter(None, (comments, earlier.comment)))
                uid = self._making.create(rule, about, key, inputs, comments, now)
            except (Unavailable, OutOfResources):
                raise  # see _PASSING
            except (ArchiveError, NotAnalysable) as error:
                log.error("rule %s: no Workitem on study %s: %s", rule.name, about.study_instance_uid, error)
                continue
            if uid is not None:
                made.append(uid)
        self._note(rule, about, key, min(waits, default=None), now)
        if ask:
            self._earlier.ask(rule, about, key, now)
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

    # Results that others build on

    def _build_on(self, uid: str, now: float) -> list[str]:
        """Make the Workitems that rules ask for on the results of a Workitem; their UIDs."""

        def look() -> list[str]:
            made = []
            for rule, about, verdict in chains.verdicts(self._archive, self.rules, uid):
                made += self._apply(rule, about, uid, verdict, now)
            return made

        return until_it_holds(look)

    # Versions

    def _again(self, rule_name: str, study: str, built_on: str, now: float) -> int:
        rule, about = self.rules.get(rule_name), plans.study(self._archive.index, study)
        if rule is None or about is None or not about.stable:
            return 0  # nothing of ours to make; or the rule looks when the study has come to rest
        made = []
        with _alone(f"study {study}"):
            if built_on:
                made = self._build_on(built_on, now)
            else:
                made = self._applied(study, [rule], replace(SYSTEM, scope=about.scope), now)
        return len(made)


@contextmanager
def _alone(about: str) -> Iterator[None]:
    """What nobody has thought of in one study is logged, and stops no other one; a failure that may pass goes on up."""
    try:
        yield
    except _PASSING:
        raise
    except Exception:
        log.exception("rules: %s", about)
