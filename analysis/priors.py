"""Earlier studies of a patient for a rule that asks for them: found in the archive, or fetched from others before.

What is fetched is stored like anything that arrives, and marked, so that rules on arrival leave it alone: an earlier
study would else ask for its own earlier studies, and so on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from analysis.api import Input, When
from analysis.matching import Match, candidates, matches
from analysis.plans import Study
from analysis.prior_sources import Earlier, Source, source
from analysis.rules import Rule
from pacs.auth import SYSTEM
from pacs.destinations import destinations
from pacs.errors import ArchiveError
from pacs.index import rule_waits, schema

if TYPE_CHECKING:
    from pacs.archive import Archive

log = logging.getLogger("m3dicom.priors")

LOOKED_AT = 30  # earlier studies of a patient that are looked through for one that fits
FETCHED_AT_MOST = 3  # per source and prior that is wanted: one that does not fit after all costs time
AT_ONCE = 2

Sources = Callable[[str], Source]


class Priors:
    """Finds earlier studies, and has them fetched. Safe from any thread."""

    def __init__(self, archive: Archive, sources: Sources | None = None) -> None:
        self._archive = archive
        reachable = destinations(archive.settings)
        self._sources: Sources = sources or (lambda name: source(archive, reachable[name]))
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._stop = threading.Event()

    def found(self, rule: Rule, about: Study, wanted: Input) -> list[Match]:
        """What fits the input in the patient's earlier studies that are stored here, the latest first."""
        if not about.patient_id or not about.date:
            return []
        t = schema.study.c
        earlier = (
            select(t.study_instance_uid)
            .where(
                t.patient_id == about.patient_id,
                func.coalesce(t.issuer_of_patient_id, "") == about.issuer_of_patient_id,
                t.scope == about.scope,
                t.study_instance_uid != about.study_instance_uid,
                t.study_date <= about.date,
                t.study_date >= oldest(rule, about),
                t.stable_at.is_not(None),
            )
            .order_by(t.study_date.desc(), t.study_time.desc(), t.id.desc())
            .limit(LOOKED_AT)
        )
        earlier = earlier.where((t.study_date < about.date) | (t.study_time < about.time))
        with self._archive.index.read() as conn:
            studies = list(conn.execute(earlier).scalars())
        principal = replace(SYSTEM, scope=about.scope)
        made: list[Match] = []
        for uid in studies:
            match = next(matches(wanted, candidates(self._archive.index, uid, principal)), None)
            if match is not None:
                made.append(match)
            if len(made) == rule.priors:
                break
        return made

    def ask(self, rule: Rule, about: Study, key: str) -> None:
        """Fetch earlier studies from the rule's sources on a thread; what becomes of it is noted beside the wait."""
        # A thread that nobody waits for: another PACS may take minutes, and a server stops at once.
        threading.Thread(target=self._fetch, args=(rule, about, key), name="priors", daemon=True).start()

    def close(self) -> None:
        """Begin nothing more; what was begun is asked for again at the next start."""
        self._stop.set()

    def _fetch(self, rule: Rule, about: Study, key: str) -> None:
        with self._places:
            words = self._asked(rule, about)
        now = time.time()
        answer = "; ".join(words)
        if self._stop.is_set():
            return
        try:
            self._archive.index.transact(
                lambda conn: rule_waits.answered(conn, rule.name, about.study_instance_uid, key, answer, now)
            )
        except ArchiveError as error:
            log.warning("rule %s: %s", rule.name, error)  # the wait has an end of its own

    def _asked(self, rule: Rule, about: Study) -> list[str]:
        """What became of asking each source of the rule, until there is enough."""
        words: list[str] = []
        for name in rule.priors_from:
            if self._stop.is_set():
                break
            try:
                fetched = self._from(self._sources(name), name, rule, about)
                words.append(f"{name}: {fetched} {'study' if fetched == 1 else 'studies'} fetched")
            except ArchiveError as error:
                log.warning("rule %s: earlier studies from %s: %s", rule.name, name, error)
                words.append(f"{name}: {error.reason}")
                continue
            except Exception:
                log.exception("rule %s: earlier studies from %s", rule.name, name)
                words.append(f"{name}: an internal error; the log tells more")
                continue
            if fetched >= rule.priors:
                break
        return words

    def _from(self, where: Source, name: str, rule: Rule, about: Study) -> int:
        offered = [
            each
            for each in where.earlier(about.patient_id, about.issuer_of_patient_id, oldest(rule, about), about.date)
            if each.study_instance_uid != about.study_instance_uid and (each.date, each.time) < (about.date, about.time)
        ]
        modalities = _modalities(rule.prior_input)
        fitting = [each for each in offered if not modalities or not each.modalities or modalities & each.modalities]
        fitting.sort(key=lambda each: (each.date, each.time), reverse=True)
        fetched = 0
        for each in fitting[: rule.priors * FETCHED_AT_MOST]:
            if self._stop.is_set():
                break
            fetched += self._fetched(where, name, each, rule, about)
            if fetched >= rule.priors:
                break
        return fetched

    def _fetched(self, where: Source, name: str, each: Earlier, rule: Rule, about: Study) -> bool:
        """Whether anything came; what does is marked first, and what does not come is left to the rules on arrival.

        A study that is here, or on its way, by itself is never marked: it may be somebody's current one. Nor is one any
        longer that is sent by somebody later.
        """
        uid, index = each.study_instance_uid, self._archive.index
        note = (uid, about.study_instance_uid, rule.name, name, time.time())
        marked = index.transact(lambda conn: rule_waits.note_prior(conn, *note))
        came = False
        try:
            came = where.fetch(uid, about.scope) > 0
        finally:
            if marked:
                index.transact(lambda conn: rule_waits.prior_came(conn, uid))
            if marked and not came:
                index.transact(lambda conn: rule_waits.forget_prior(conn, uid))
        return came


def _modalities(wanted: Input | None) -> frozenset[str]:
    """The modalities that the input takes, as far as one plain test tells; none = any."""
    tests = () if wanted is None else wanted.where
    named = [each for each in tests if isinstance(each, When) and each.attribute == "Modality" and each.op == "eq"]
    return frozenset(str(each.value) for each in named)


def oldest(rule: Rule, about: Study) -> str:
    """The first Study Date (DA) that is not too old for the rule."""
    if not rule.priors_days:
        return "00010101"
    try:
        day = datetime.strptime(about.date, "%Y%m%d").replace(tzinfo=UTC) - timedelta(days=rule.priors_days)
    except (ValueError, OverflowError):
        return "00010101"
    return day.strftime("%Y%m%d")
