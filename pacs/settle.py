"""Studies that have come to rest: found when nothing new arrived for a while, and told once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from pacs.auth import SYSTEM
from pacs.index import changes, schema
from pacs.index.engine import Index
from pacs.settings import Settings

AHEAD_S = 60.0
"""An arrival further ahead of the clock than this means that the clock was put back; less may be another host's."""

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class StableStudy:
    """A study that came to rest, with the fingerprint of what it held then."""

    study_instance_uid: str
    fingerprint: str


def fingerprint(conn: Connection, study_key: int) -> str:
    """The SHA-256, in hex, over the sorted (SOP Instance UID, digest) of all instances that are no results of ours."""
    t = schema.instance.c
    held = conn.execute(
        select(t.sop_instance_uid, t.digest).where(t.study_key == study_key, t.result_of.is_(None))
    ).all()
    return fingerprint_of(map(tuple, held))


def fingerprint_of(instances: Iterable[tuple[str, str]]) -> str:
    """The SHA-256, in hex, over (SOP Instance UID, digest) of instances, in whatever order they come."""
    return hashlib.sha256("\n".join(f"{uid} {digest}" for uid, digest in sorted(instances)).encode()).hexdigest()


class Settle:
    """Marks studies as stable. Any number of schedulers may do so; each study is told by one of them."""

    def __init__(self, index: Index, settings: Settings) -> None:
        self._index = index
        self._after_s = settings.stable_after_s

    def claim_stable(self, now: float) -> list[StableStudy]:
        """The studies whose last instance came `stable_after_s` before `now` or earlier, each told exactly once.

        They are marked, and a change "stable" with the fingerprint is appended, in one transaction. A later instance
        makes a study unstable again; results of ours do not.
        """
        t = schema.study.c
        due = (
            select(t.id, t.study_instance_uid, t.scope, t.last_instance_at)
            .where(t.stable_at.is_(None), t.last_instance_at <= now - self._after_s)
            .order_by(t.last_instance_at)
            .limit(_AT_ONCE)
        )
        # The clock was put back: what seems to have come in the future came before now, and is quiet from now on.
        ahead = select(t.id).where(t.stable_at.is_(None), t.last_instance_at > now + AHEAD_S)
        with self._index.read() as conn:
            if conn.execute(due.limit(1)).first() is None and conn.execute(ahead.limit(1)).first() is None:
                return []

        def work(conn: Connection) -> list[StableStudy]:
            conn.execute(update(schema.study).where(t.id.in_(ahead)).values(last_instance_at=now))
            claimed = []
            news: list[dict[str, object]] = []
            for study in conn.execute(due).all():
                # The study is locked before it is read: nothing can arrive between its fingerprint and the claim.
                mine = conn.execute(
                    update(schema.study)
                    .where(t.id == study.id, t.stable_at.is_(None), t.last_instance_at == study.last_instance_at)
                    .values(stable_at=now)
                ).rowcount
                if not mine:
                    continue
                mark = fingerprint(conn, study.id)
                conn.execute(update(schema.study).where(t.id == study.id).values(fingerprint=mark))
                claimed.append(StableStudy(study.study_instance_uid, mark))
                news.append(
                    changes.row(
                        "stable", at=now, principal=SYSTEM.name, scope=study.scope,
                        study_instance_uid=study.study_instance_uid, fingerprint=mark,
                    )
                )  # fmt: skip
            changes.append_all(conn, news)
            return claimed

        return self._index.transact(work)
