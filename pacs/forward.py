"""The return path: results and studies sent on to other systems, each exactly noted until it has arrived.

Rules turn news into deliveries, from a durable cursor each; a person may ask for more. A delivery is tried until the
destination has taken the instance and, where that is asked, has committed itself to keep it; what cannot be delivered
ends as a dead letter with its reason. How an instance is sent is a courier's business (`pacs.dimse.courier`,
`pacs.stow_client`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row

from pacs import audit
from pacs.auth import SYSTEM, Principal, Right
from pacs.delivering import Deliverer
from pacs.destinations import Couriers, delivery_row, destinations, wanted
from pacs.errors import InvalidInput
from pacs.index import deliveries as sql

if TYPE_CHECKING:
    from pacs.archive import Archive
    from pacs.settings import Forward as Rule

NEWS = ("instance", "result", "replaced", "restored")
NEWS_AT_ONCE = 500


class Forward:
    """Deliveries of one archive. Safe from any thread; `step` is called by the scheduler."""

    def __init__(self, archive: Archive, couriers: Couriers, *, clock: Callable[[], float] = time.time) -> None:
        """Raises InvalidInput for rules that cannot be."""
        self._archive = archive
        self._index = archive.index
        self._clock = clock
        self._rules = [rule for rule in archive.settings.forward if rule.what != "nothing"]
        self._by_name = destinations(archive.settings)
        self._by_to = {each.to: each for each in self._by_name.values()} | {
            each.to: each for each in self._by_name.values() if each.token_file or each.commitment
        }
        self._begin()
        with self._index.read() as conn:
            left = any(sql.listed(conn, state=state, limit=1) for state in sql.OPEN)
        self._idle = not self._by_name and not left
        self._deliverer = Deliverer(archive, self._by_to, couriers, clock=clock)

    def _begin(self) -> None:
        """A new rule is about what happens from now on: before any door opens."""
        changes = self._archive.changes
        last = changes.last()
        for rule in self._rules:
            if not changes.has_cursor(_cursor(rule)):
                self._index.transact(partial(changes.advance, name=_cursor(rule), seq=last))

    @property
    def names(self) -> tuple[str, ...]:
        """What destinations may be called."""
        return tuple(sorted(self._by_name))

    def close(self) -> None:
        """Send no more; what is under way is finished or given back."""
        self._deliverer.close()

    # --- what people ask ---

    def request(
        self, principal: Principal, to: str, study: str, series: str | None = None, instance: str | None = None
    ) -> int:
        """How many instances of the study, series or instance are now on their way to the destination named `to`.

        Those that were delivered before are sent again. Raises InvalidInput for an unknown destination, NotFound and
        Forbidden.
        """
        destination = self._by_name.get(to)
        if destination is None:
            raise InvalidInput(f"no destination of this name; there are: {', '.join(self.names) or 'none configured'}")
        locations = self._archive.retrieve.locate(principal, study, series, instance)
        now = self._clock()

        def work(conn: Connection) -> int:
            found = sql.candidates(conn, [location.sop_instance_uid for location in locations])
            rows = [delivery_row(destination, to, each, principal.name, now) for each in found]
            added = sql.add(conn, rows, again=True)
            detail = f"{added} instances to {destination.to}"
            audit.record_all(
                conn, [audit.row("Delivery Requested", principal, "success", now, study_instance_uid=study,
                                 series_instance_uid=series, sop_instance_uid=instance, detail=detail)]
            )  # fmt: skip
            return added

        added = self._index.transact(work)
        self._deliverer.try_now(destination.to)
        self._archive.events.publish()
        return added

    def listed(
        self, principal: Principal, *, state: str | None = None, study: str | None = None, after: int = 0, limit: int
    ) -> list[dict[str, Any]]:
        """Deliveries that the principal may see, in the order of their ids, as plain values. Raises Forbidden."""
        principal.require(Right.READ)
        if state is not None and state not in sql.STATES:
            raise InvalidInput(f"state is one of {', '.join(sql.STATES)}")
        with self._index.read() as conn:
            rows = sql.listed(conn, state=state, study=study, after=after, limit=limit)
        return [_public(row) for row in rows if principal.scope in ("", row.scope)]

    def counts(self) -> list[dict[str, Any]]:
        """How many deliveries to each destination are in each state, and since when the oldest waits."""
        with self._index.read() as conn:
            return [dict(row._mapping) for row in sql.counts(conn)]

    def retry(self, principal: Principal, ids: Sequence[int] | None = None, destination: str | None = None) -> int:
        """How many dead letters are tried again. Raises Forbidden."""
        principal.require(Right.ADMIN)
        now = self._clock()

        def work(conn: Connection) -> int:
            revived = sql.revive(conn, now, ids, destination)
            detail = f"{revived} dead letters tried again"
            audit.record_all(conn, [audit.row("Delivery Requested", principal, "success", now, detail=detail)])
            return revived

        return self._index.transact(work)

    # --- the scheduler ---

    def step(self, now: float) -> None:
        """One round: news become deliveries, due ones are sent in the background, commitments are followed up."""
        if self._idle:
            return
        for rule in self._rules:
            self._plan(rule, now)
        self._deliverer.step(now)

    def _plan(self, rule: Rule, now: float) -> None:
        changes = self._archive.changes
        cursor = _cursor(rule)
        destination = self._by_name[rule.name]
        more = True
        while more:  # until the end is reached, not until nothing new comes meanwhile
            batch = changes.after(changes.cursor(cursor), NEWS_AT_ONCE)
            if not batch:
                break
            more = len(batch) == NEWS_AT_ONCE
            news = list({each.sop_instance_uid for each in batch if each.kind in NEWS and each.sop_instance_uid})

            def work(conn: Connection, news: list[str] = news, seq: int = batch[-1].seq) -> None:
                found = [each for each in sql.candidates(conn, news) if wanted(rule, each)] if news else []
                sql.add(conn, [delivery_row(destination, rule.name, each, SYSTEM.name, now) for each in found])
                changes.advance(conn, cursor, seq)

            self._index.transact(work)


def _cursor(rule: Rule) -> str:
    return f"forward {rule.name}"


def _public(row: Row[Any]) -> dict[str, Any]:
    names = (
        "id", "destination", "rule", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "state",
        "attempt", "reason", "principal", "created_at", "updated_at", "not_before",
    )  # fmt: skip
    return {name: row._mapping[name] for name in names}
