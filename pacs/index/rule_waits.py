"""The SQL of what rules wait for: a row for each rule and study that is not yet as the rule wants it, and why.

`prior_study` names the studies that were fetched for a rule as earlier ones: rules on arrival leave them alone, until
something of them comes by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import (
    TEXT,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from pacs.index import schema

_TEXT = Text().with_variant(TEXT(collation="C"), "postgresql")

rule_wait = Table(
    "rule_wait",
    schema.metadata,
    Column("rule", _TEXT, primary_key=True),
    Column("study_instance_uid", _TEXT, primary_key=True),
    Column("about", _TEXT, primary_key=True),  # the Workitem whose results it is about; "" = what arrived
    Column("scope", _TEXT, nullable=False),
    Column("since", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("why", _TEXT, nullable=False),
    Column("asked_at", Double),  # others were asked for earlier studies
    Column("answer", _TEXT),  # what became of that, in words; NULL = not known yet
    Index("rule_wait_due", "due_at"),
)

prior_study = Table(
    "prior_study",
    schema.metadata,
    Column("study_instance_uid", _TEXT, primary_key=True),
    Column("fetched_for", _TEXT, nullable=False),  # Study Instance UID
    Column("rule", _TEXT, nullable=False),
    Column("source", _TEXT, nullable=False),
    Column("at", Double, nullable=False),
    Column("last_instance", BigInteger),  # key of the last instance that was fetched; NULL = they are coming
)

t = rule_wait.c

FETCHED_IN_S = 3600.0
"""An earlier study that was asked for longer ago and of which no end was heard is not on its way any more."""

AHEAD_S = 60.0
"""As with studies (`pacs.settle`): what is further ahead of the clock was noted before the clock was put back."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A rule that waits with a study. Times are in Unix seconds."""

    rule: str
    study_instance_uid: str
    about: str
    scope: str
    since: float
    due_at: float
    why: str
    asked_at: float | None
    answer: str | None


def _key(rule: str, study: str, about: str) -> tuple[object, ...]:
    return t.rule == rule, t.study_instance_uid == study, t.about == about


def get(conn: Connection, rule: str, study: str, about: str = "") -> Wait | None:
    """What the rule waits for with that study."""
    found = conn.execute(select(rule_wait).where(*_key(rule, study, about))).first()  # type: ignore[arg-type]
    return None if found is None else Wait(*found)


def put(conn: Connection, rule: str, study: str, about: str, scope: str, now: float, due_at: float, why: str) -> None:
    """Note that the rule looks at the study again at `due_at`, and why it waits."""
    changed = update(rule_wait).where(*_key(rule, study, about)).values(due_at=due_at, why=why)  # type: ignore[arg-type]
    if not conn.execute(changed).rowcount:
        values = {"rule": rule, "study_instance_uid": study, "about": about, "scope": scope, "since": now}
        conn.execute(insert(rule_wait).values(**values, due_at=due_at, why=why))


def ask(conn: Connection, rule: str, study: str, about: str, now: float) -> bool:
    """Whether the caller is the one who asks others for earlier studies: the first to note it."""
    wanted = update(rule_wait).where(*_key(rule, study, about), t.asked_at.is_(None))  # type: ignore[arg-type]
    return conn.execute(wanted.values(asked_at=now)).rowcount == 1


def answered(conn: Connection, rule: str, study: str, about: str, words: str, now: float) -> None:
    """Note what became of asking; the rule looks again at once."""
    changed = update(rule_wait).where(*_key(rule, study, about))  # type: ignore[arg-type]
    conn.execute(changed.values(answer=words, due_at=now))


def unanswered(conn: Connection, now: float) -> None:
    """Let rules ask again whose question ended with the process that asked."""
    conn.execute(update(rule_wait).where(t.asked_at.is_not(None), t.answer.is_(None)).values(asked_at=None, due_at=now))


def arriving(conn: Connection, study: str) -> bool:
    """Whether something of the earlier studies that were fetched for this one may still be on its way."""
    s, p = schema.study.c, prior_study.c
    wanted = select(s.id).join(prior_study, p.study_instance_uid == s.study_instance_uid)
    return conn.execute(wanted.where(p.fetched_for == study, s.stable_at.is_(None))).first() is not None


def drop(conn: Connection, rule: str, study: str, about: str = "") -> bool:
    """Whether the rule waited with that study; it does no longer."""
    return conn.execute(delete(rule_wait).where(*_key(rule, study, about))).rowcount > 0  # type: ignore[arg-type]


def ahead(conn: Connection, now: float) -> bool:
    """Whether something waits since what is the future by now: the clock was put back."""
    return conn.execute(select(t.rule).where(t.since > now + AHEAD_S).limit(1)).first() is not None


def put_back(conn: Connection, now: float) -> None:
    """Let that wait as long from now on."""
    by = t.since - now
    values = {"due_at": t.due_at - by, "asked_at": t.asked_at - by, "since": now}
    conn.execute(update(rule_wait).where(t.since > now + AHEAD_S).values(**values))


def due(conn: Connection, now: float, rules: Collection[str], limit: int = 100) -> list[Wait]:
    """Whose time has come of these rules, the first due first."""
    wanted = select(rule_wait).where(t.due_at <= now, t.rule.in_(rules))
    return [Wait(*row) for row in conn.execute(wanted.order_by(t.due_at).limit(limit))]


def abandoned(conn: Connection, before: float) -> int:
    """Forget what was due before then, and that no server had a rule for."""
    return conn.execute(delete(rule_wait).where(t.due_at < before)).rowcount


def listed(conn: Connection, scope: str, study: str | None = None, limit: int = 1000) -> list[Wait]:
    """What waits, the longest first."""
    wanted = select(rule_wait)
    if scope:
        wanted = wanted.where(t.scope == scope)
    if study is not None:
        wanted = wanted.where(t.study_instance_uid == study)
    return [Wait(*row) for row in conn.execute(wanted.order_by(t.since).limit(limit))]


def note_prior(conn: Connection, study: str, fetched_for: str, rule: str, source: str, at: float) -> bool:
    """Note that the study is asked for as an earlier one of another; False where it is here, or came, by itself."""
    s, p = schema.study.c, prior_study.c
    values = {"fetched_for": fetched_for, "rule": rule, "source": source, "at": at, "last_instance": None}
    if is_prior(conn, study, at):
        conn.execute(update(prior_study).where(p.study_instance_uid == study).values(**values))
        return True
    if conn.execute(select(s.id).where(s.study_instance_uid == study)).first() is not None:
        return False
    forget_prior(conn, study)
    conn.execute(insert(prior_study).values(study_instance_uid=study, **values))
    return True


def prior_came(conn: Connection, study: str) -> None:
    """Note that what is here of the study was fetched; what comes from now on comes by itself."""
    last = select(func.coalesce(func.max(schema.instance.c.id), 0)).where(_of(study))
    p = prior_study.c
    conn.execute(update(prior_study).where(p.study_instance_uid == study).values(last_instance=last.scalar_subquery()))


def forget_prior(conn: Connection, study: str) -> None:
    """Note no longer that the study was asked for, where nothing of it has come."""
    s, p = schema.study.c, prior_study.c
    here = select(s.id).where(s.study_instance_uid == study).exists()
    conn.execute(delete(prior_study).where(p.study_instance_uid == study, ~here))


def is_prior(conn: Connection, study: str, now: float) -> bool:
    """Whether all that is here of the study was fetched, as an earlier one of another."""
    i, p = schema.instance.c, prior_study.c
    held = conn.execute(select(p.last_instance, p.at).where(p.study_instance_uid == study)).first()
    if held is None:
        return False
    if held.last_instance is None:
        return bool(held.at > now - FETCHED_IN_S)  # else nobody fetches it any more: whatever comes is news
    own = select(i.id).where(_of(study), i.id > held.last_instance, i.result_of.is_(None))
    return conn.execute(own.limit(1)).first() is None


def _of(study: str) -> ColumnElement[bool]:
    s = schema.study.c
    return schema.instance.c.study_key.in_(select(s.id).where(s.study_instance_uid == study))
