"""Requests for a plug-in that takes an earlier study and that name none: it is looked for as rules look for theirs.

Until it is there the Workitem's Input Readiness State (0040,4041) is INCOMPLETE, and a row says what it waits for
(`pacs.index.rule_waits`, about the Workitem). Then it is READY with the earlier study among its inputs, READY without
and a comment that says why, or CANCELED where the plug-in cannot do without.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from analysis import plans
from analysis.api import NotAnalysable
from analysis.earlier import Awaited, Earlier
from analysis.registry import Registry
from analysis.requests import REQUESTS
from analysis.rules import Rule, Rules
from pacs.auth import SYSTEM
from pacs.dicom.ups import State
from pacs.errors import Conflict
from pacs.index import rule_waits, workitems
from pacs.worklist import NOT_READY

if TYPE_CHECKING:
    from pacs.archive import Archive


class Requested:
    """Gives requests the earlier studies that they lack."""

    def __init__(self, archive: Archive, registry: Registry, rules: Rules, earlier: Earlier) -> None:
        self._archive = archive
        self._earlier = earlier
        self._rules = {
            name: replace(rules.on_request.get(each.id) or Rule(name, each, priors=1), name=name)
            for each in registry
            if any(wanted.prior for wanted in each.manifest.inputs) and (name := REQUESTS + each.id)
        }

    @property
    def names(self) -> frozenset[str]:
        """What `rule_wait` calls the rules by which requests are looked after here."""
        return frozenset(self._rules)

    def look(self, wait: rule_waits.Wait, now: float) -> None:
        """Go on with a request whose time has come."""
        index, uid = self._archive.index, wait.about
        with index.read() as conn:
            row = workitems.get(conn, uid)
        if row is not None and row.state is State.SCHEDULED and row.not_before == NOT_READY:
            awaited = self._answered(wait, row.scope, now)
            if awaited is not None:
                study, more = wait.study_instance_uid, (wait.scope, now, awaited.until, awaited.why)
                index.transact(lambda conn: rule_waits.put(conn, wait.rule, study, uid, *more))
                if awaited.ask:
                    self._ask(wait, now)
                return
        index.transact(partial(rule_waits.drop, rule=wait.rule, study=wait.study_instance_uid, about=uid))

    def _answered(self, wait: rule_waits.Wait, scope: str, now: float) -> Awaited | None:
        """What is awaited still, None where the request has got its answer."""
        worklist, rule = self._archive.worklist, self._rules[wait.rule]
        about = plans.study(self._archive.index, wait.study_instance_uid)
        if about is None or (scope and scope != about.scope):
            worklist.make_ready(wait.about, (), "")  # whoever takes it says in words that it is not here
            return None
        assert rule.prior_input is not None
        try:
            found = self._earlier.look(rule, about, wait.about, rule.prior_input, now)
        except NotAnalysable as reason:
            with suppress(Conflict):  # somebody else has ended it
                worklist.request_cancel(wait.about, str(reason), SYSTEM, ended="refused")
            return None
        if isinstance(found, Awaited):
            return found
        references = [reference for match in found.matches for reference in match.references]
        worklist.make_ready(wait.about, references, found.comment)
        return None

    def _ask(self, wait: rule_waits.Wait, now: float) -> None:
        about = plans.study(self._archive.index, wait.study_instance_uid)
        if about is not None:
            self._earlier.ask(self._rules[wait.rule], about, wait.about, now)
