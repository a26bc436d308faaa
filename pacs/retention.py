"""Retention: rules that say what goes when, told before (dry run) and after (audit, change); what a person keeps.

A rule chooses whole studies, or what in them was received, or our results, or what is kept aside: by age, source and
modality, or by the total size. Nothing goes while somebody still needs it: a Workitem is open, a delivery or storage
commitment is pending, or a person has marked the study. Every deletion is one of `pacs.removal`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, func, insert, or_, select

from pacs import audit, journal
from pacs.auth import Principal, Right
from pacs.dicom.ups import State
from pacs.errors import ArchiveError, Conflict, Forbidden, InvalidInput, NotFound
from pacs.index import aside as kept_aside
from pacs.index import commitments, deliveries, schema
from pacs.index.corrections import study_keep
from pacs.index.engine import Index
from pacs.index.statement import Found
from pacs.removal import Removal
from pacs.settings import Retention as Rule
from pacs.storage.base import ObjectStore

log = logging.getLogger("m3dicom.retention")

WHAT = ("study", "received", "results", "rejected", "versions", "quarantined")
_ASIDE = {"rejected": kept_aside.REJECTED, "versions": kept_aside.REPLACED, "quarantined": kept_aside.QUARANTINED}
FROM = ("arrival", "study")
EVERY_S = 60.0
BITE_S = 2.0
"""So long may one round take that others wait for; the next goes on where it ended."""
_PAGE = 100
_GB = 1_000_000_000
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Due:
    """What a rule says of a study, or of something kept aside: it is to go, unless `stays` says why it does not yet."""

    rule: str
    what: str
    study_instance_uid: str
    instances: int
    bytes: int
    why: str
    stays: str = ""
    aside_id: int | None = None


def check(rules: Sequence[Rule]) -> None:
    """Nothing, or InvalidInput for rules that cannot be meant."""
    names = [rule.name for rule in rules]
    for rule in rules:
        about = f"setting retention: rule {rule.name!r}"
        if names.count(rule.name) > 1:
            raise InvalidInput(f"{about} is there twice")
        if rule.what not in WHAT:
            raise InvalidInput(f"{about}: what is one of {', '.join(WHAT)}")
        if rule.counted_from not in FROM:
            raise InvalidInput(f"{about}: counted_from is one of {', '.join(FROM)}")
        if bool(rule.days) == bool(rule.above_gb):
            raise InvalidInput(f"{about} needs days or above_gb, and not both")
        if rule.above_gb and not (0 < rule.down_to_gb < rule.above_gb and rule.what == "study"):
            raise InvalidInput(f"{about}: above_gb needs down_to_gb below it, and whole studies")
        if rule.what in _ASIDE and (rule.modality or rule.source or rule.counted_from != "arrival"):
            raise InvalidInput(f"{about}: what is kept aside goes by age alone")


class Retention:
    """Rules at work. `step` belongs to one scheduler at a time and harms nobody when several run it."""

    def __init__(self, store: ObjectStore, index: Index, removal: Removal, rules: Sequence[Rule]) -> None:
        check(rules)
        self._index = index
        self._removal = removal
        self._rules = tuple(rules)
        self._journal = journal.Journal(store, index)
        self._next = 0.0

    def step(self, now: float) -> int:
        """How many studies or objects went now: for about `BITE_S`, and again a minute after all was done."""
        if not self._rules or now < self._next:
            return 0
        until = time.monotonic() + BITE_S
        went = 0
        for due in self.due(now):
            if due.stays:
                continue
            if self._remove(due):
                went += 1
            if time.monotonic() > until:
                return went
        self._next = now + EVERY_S
        return went

    def due(self, now: float) -> Iterator[Due]:
        """What is to go, the oldest first, rule by rule, with what stays and why. Changes nothing."""
        for rule in self._rules:
            if rule.what in _ASIDE:
                yield from self._aside(rule, now)
            elif rule.above_gb:
                yield from self._by_size(rule)
            else:
                age = f"older than {rule.days} days"
                for page in self._pages(rule, now - rule.days * _DAY_S):
                    yield from self._judged(rule, page, age)

    def preview(self, principal: Principal, now: float, limit: int = 1000) -> list[Due]:
        """What `step` would remove now, and what it would leave: at most `limit`. Raises Forbidden."""
        principal.require(Right.ADMIN)
        if principal.scope:
            raise Forbidden("retention concerns the whole archive, not one access scope")
        found = []
        for due in self.due(now):
            found.append(due)
            if len(found) >= limit:
                break
        return found

    def _pages(self, rule: Rule, before: float | None) -> Iterator[list[Found]]:
        """The studies that a rule is about, the oldest first."""
        s = schema.study.c
        age: ColumnElement[Any] = func.coalesce(s.last_instance_at, s.created_at)
        if rule.counted_from == "study":
            age = s.study_date
        wanted = _chosen(rule).add_columns(age.label("age")).where(age.is_not(None)).order_by(age, s.id).limit(_PAGE)
        if before is not None:
            limit = f"{datetime.fromtimestamp(before, UTC):%Y%m%d}" if rule.counted_from == "study" else before
            wanted = wanted.where(age <= limit)
        last: Found | None = None
        while True:
            after = wanted if last is None else wanted.where(or_(age > last.age, and_(age == last.age, s.id > last.id)))
            with self._index.read() as conn:
                page = list(conn.execute(after).all())
            if not page:
                return
            yield page
            last = page[-1]

    def _judged(self, rule: Rule, page: Sequence[Found], why: str) -> Iterator[Due]:
        with self._index.read() as conn:
            needed = needs(conn, [row.study_instance_uid for row in page])
            sizes = _sizes(conn, rule, [row.id for row in page])
        for row in page:
            instances, size = sizes.get(row.id, (0, 0))
            if instances:
                uid = row.study_instance_uid
                yield Due(rule.name, rule.what, uid, instances, size, why, needed.get(uid, ""))

    def _by_size(self, rule: Rule) -> Iterator[Due]:
        t, a = schema.instance.c.object_length, kept_aside.aside.c.object_length
        with self._index.read() as conn:
            total = sum(int(conn.execute(select(func.coalesce(func.sum(c), 0))).scalar_one()) for c in (t, a))
        if total <= rule.above_gb * _GB:
            return
        why = f"{total / _GB:.1f} GB are stored, more than {rule.above_gb}; down to {rule.down_to_gb}"
        for page in self._pages(rule, None):
            for due in self._judged(rule, page, why):
                yield due
                total -= 0 if due.stays else due.bytes
                if total <= rule.down_to_gb * _GB:
                    return

    def _aside(self, rule: Rule, now: float) -> Iterator[Due]:
        t = kept_aside.aside.c
        wanted = (
            select(t.id, t.study_instance_uid, t.object_length)
            .where(t.state == _ASIDE[rule.what], t.at <= now - rule.days * _DAY_S)
            .order_by(t.at, t.id)
        )
        with self._index.read() as conn:
            found = conn.execute(wanted).all()
            kept = needs(conn, sorted({row.study_instance_uid for row in found}))
        for row in found:
            uid = row.study_instance_uid
            stays = kept.get(uid, "")
            yield Due(
                rule.name, rule.what, uid, 1, row.object_length, f"aside for {rule.days} days", stays, row.id
            )  # fmt: skip

    def _remove(self, due: Due) -> bool:
        """Whether it went; what is needed again by now stays."""
        who = Principal(f"retention {due.rule}", "system", frozenset({Right.DELETE}))
        why = f"retention rule {due.rule}: {due.why}"
        uid = due.study_instance_uid
        try:
            if due.aside_id is not None:
                return bool(self._removal.discard(who, [due.aside_id], why))
            if due.what == "study":
                return bool(self._removal.delete(who, uid, why=why, unless=lambda conn: bool(needs(conn, [uid]))))
            with self._index.read() as conn:
                instances = _instances(conn, due.what, uid)
            went = 0
            for series, sop in instances:
                went += self._removal.delete(
                    who, uid, series, sop, why=why, unless=lambda conn: bool(needs(conn, [uid]))
                )  # fmt: skip
            return bool(went)
        except NotFound:
            return False  # somebody else was quicker
        except ArchiveError as error:
            log.warning("retention rule %s: study %s stays: %s", due.rule, uid, error)
            return False

    # Studies that a person keeps

    def keep(self, principal: Principal, study_instance_uid: str, reason: str) -> None:
        """Mark a study: no rule touches it. Raises Forbidden, NotFound, and InvalidInput without a reason."""
        principal.require(Right.ADMIN)
        reason = " ".join(reason.split())
        if not 1 <= len(reason) <= 200:
            raise InvalidInput("a reason of 1 to 200 characters is needed")
        now = time.time()

        def work(conn: Connection) -> None:
            _visible(conn, principal, study_instance_uid)
            row = {"study_instance_uid": study_instance_uid, "principal": principal.name, "reason": reason, "at": now}
            _keep(conn, row)
            journal.record(conn, "study kept", row, at=now)
            _told(conn, principal, now, study_instance_uid, "Study Kept")

        self._index.transact(work)
        self._journal.export()

    def release(self, principal: Principal, study_instance_uid: str) -> None:
        """Let rules see a study again. Raises Forbidden, NotFound, and Conflict where it is not marked."""
        principal.require(Right.ADMIN)
        now = time.time()

        def work(conn: Connection) -> None:
            _visible(conn, principal, study_instance_uid)
            if not _release(conn, study_instance_uid):
                raise Conflict("the study is not marked", about=study_instance_uid)
            journal.record(conn, "study released", {"study_instance_uid": study_instance_uid}, at=now)
            _told(conn, principal, now, study_instance_uid, "Study Released")

        self._index.transact(work)
        self._journal.export()

    def kept(self, principal: Principal) -> list[dict[str, Any]]:
        """The studies that are marked, the newest mark first. Raises Forbidden."""
        principal.require(Right.ADMIN)
        s = schema.study.c
        wanted = select(study_keep).order_by(study_keep.c.at.desc())
        if principal.scope:
            mine = select(s.study_instance_uid).where(s.scope == principal.scope)
            wanted = wanted.where(study_keep.c.study_instance_uid.in_(mine))
        with self._index.read() as conn:
            return [dict(row._mapping) for row in conn.execute(wanted)]


def needs(conn: Connection, study_instance_uids: Sequence[str]) -> dict[str, str]:
    """Why studies must not go now, for those that must not."""
    uids = list(study_instance_uids)
    k, w, s = study_keep.c.study_instance_uid, schema.workitem.c, schema.study.c
    found: dict[str, str] = {}
    for at in range(0, len(uids), _PAGE):
        some = uids[at : at + _PAGE]
        final = [str(state) for state in State if state.final]
        open_ = select(w.study_instance_uid).where(w.study_instance_uid.in_(some), w.state.not_in(final))
        resting = select(s.study_instance_uid).where(
            s.study_instance_uid.in_(some), s.stable_at.is_(None), s.last_instance_at.is_not(None)
        )
        found |= dict.fromkeys(conn.execute(resting).scalars(), "the study is not at rest")
        found |= dict.fromkeys(commitments.pending_studies(conn, some), "a storage commitment is pending")
        found |= dict.fromkeys(deliveries.pending_studies(conn, some), "a delivery is pending")
        found |= dict.fromkeys(conn.execute(open_).scalars(), "a Workitem is open")
        found |= dict.fromkeys(conn.execute(select(k).where(k.in_(some))).scalars(), "a person keeps it")
    return found


def _chosen(rule: Rule) -> Select[Any]:
    """The studies of the sources and modalities that a rule names; our own results do not count for either."""
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    wanted = select(s.id, s.study_instance_uid)
    received = and_(i.study_key == s.id, i.result_of.is_(None))
    if rule.source:
        wanted = wanted.where(~exists().where(received, i.source_ae.not_in(rule.source)), exists().where(received))
    if rule.modality:
        others = or_(r.modality.is_(None), r.modality.not_in(rule.modality))
        wanted = wanted.where(
            ~exists().where(received, r.id == i.series_key, others), exists().where(received, r.id == i.series_key)
        )
    return wanted


def _of(what: str) -> Sequence[ColumnElement[bool]]:
    t = schema.instance.c.result_of
    return {"results": [t.is_not(None)], "received": [t.is_(None)]}.get(what, [])


def _sizes(conn: Connection, rule: Rule, study_keys: Sequence[int]) -> dict[int, tuple[int, int]]:
    i = schema.instance.c
    wanted = (
        select(i.study_key, func.count(), func.sum(i.object_length))
        .where(i.study_key.in_(study_keys), *_of(rule.what))
        .group_by(i.study_key)
    )
    return {key: (int(count), int(size)) for key, count, size in conn.execute(wanted)}


def _instances(conn: Connection, what: str, study_instance_uid: str) -> list[tuple[str, str]]:
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    wanted = (
        select(r.series_instance_uid, i.sop_instance_uid)
        .join_from(schema.instance, schema.series, r.id == i.series_key)
        .join(schema.study, s.id == i.study_key)
        .where(s.study_instance_uid == study_instance_uid, *_of(what))
    )
    return [(series, sop) for series, sop in conn.execute(wanted)]


def _visible(conn: Connection, principal: Principal, study_instance_uid: str) -> None:
    s = schema.study.c
    scope = conn.execute(select(s.scope).where(s.study_instance_uid == study_instance_uid)).scalar()
    if scope is None or (principal.scope and scope != principal.scope):
        raise NotFound("no such study is stored here", about=study_instance_uid)


def _keep(conn: Connection, row: dict[str, Any]) -> None:
    _release(conn, row["study_instance_uid"])
    conn.execute(insert(study_keep).values(**row))


def _release(conn: Connection, study_instance_uid: str) -> bool:
    gone = delete(study_keep).where(study_keep.c.study_instance_uid == study_instance_uid)
    return bool(conn.execute(gone).rowcount)


def _told(conn: Connection, principal: Principal, now: float, study_instance_uid: str, event: str) -> None:
    audit.record_all(conn, [audit.row(event, principal, "success", now, study_instance_uid=study_instance_uid)])


REPLAY = {
    "study kept": lambda conn, record: _keep(conn, dict(record.facts)),
    "study released": lambda conn, record: _release(conn, record.facts["study_instance_uid"]),
}
"""What each record of ours in the journal does to an index that is made again."""
