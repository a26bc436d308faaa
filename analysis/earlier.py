"""Earlier studies for one task: those that are here, or what is still awaited from others (`analysis.priors`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.api import Input, NotAnalysable
from analysis.matching import Match
from analysis.plans import Study
from analysis.priors import Priors
from analysis.rules import Rule
from pacs.index import rule_waits

if TYPE_CHECKING:
    from pacs.archive import Archive


@dataclass(frozen=True)
class Found:
    """The earlier studies of a task, and what its readers should know of them."""

    matches: tuple[Match, ...]
    comment: str


@dataclass(frozen=True)
class Awaited:
    """Earlier studies that may still come; with `ask`, somebody has to ask for them first."""

    until: float
    why: str
    ask: bool = False


class Earlier:
    """Looks for the earlier studies of tasks; what others are asked for is a row, and asked for once."""

    def __init__(self, archive: Archive, priors: Priors) -> None:
        self._archive = archive
        self._priors = priors

    def look(self, rule: Rule, about: Study, key: str, wanted: Input, now: float) -> Found | Awaited:
        """The earlier studies for a task, or what is awaited of them. Raises NotAnalysable: it cannot do without."""
        found = tuple(self._priors.found(rule, about, wanted))
        with self._archive.index.read() as conn:
            wait = rule_waits.get(conn, rule.name, about.study_instance_uid, key)
            arriving = rule_waits.arriving(conn, about.study_instance_uid)
        said = ""
        if len(found) < rule.priors and rule.priors_from:
            if wait is None or wait.asked_at is None:
                names = ", ".join(rule.priors_from)
                return Awaited(now + rule.wait_s, f"{names}: asked for earlier studies", ask=True)
            until = wait.asked_at + rule.wait_s
            if now < until and wait.answer is None:
                return Awaited(until, wait.why)
            if now < until and arriving:
                return Awaited(min(until, now + 1.0), "earlier studies are arriving")
            said = wait.answer or f"{', '.join(rule.priors_from)}: no answer within {rule.wait_s:g} s"
        if not found:
            said = f"no earlier study fits{f' ({said})' if said else ''}"
            if not wanted.optional:
                raise NotAnalysable(said)
        return Found(found, said if len(found) < rule.priors else "")

    def ask(self, rule: Rule, about: Study, key: str, now: float) -> None:
        """Have them fetched, by the first who says so."""
        study = about.study_instance_uid
        if self._archive.index.transact(lambda conn: rule_waits.ask(conn, rule.name, study, key, now)):
            self._priors.ask(rule, about, key)
