"""Readers' verdicts on findings: saying them, what was said, and how accurate that makes each plug-in version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from analysis.accuracy import Accuracy, Correction, corrections, latest, table
from analysis.verdict_models import Form, NewVerdict, Verdict, told
from pacs.auth import Principal
from pacs.index import verdicts as sql

if TYPE_CHECKING:
    from analysis.verdict_writing import VerdictWriter
    from pacs.archive import Archive


class Verdicts:
    """Verdicts of one archive. Safe from any thread."""

    def __init__(self, archive: Archive, *, clock: Callable[[], float] = time.time) -> None:
        self._archive = archive
        self._index = archive.index
        self._clock = clock
        self._making = threading.Lock()
        self._writer: VerdictWriter | None = None

    def say(self, principal: Principal, given: NewVerdict) -> Verdict:
        """The verdict, durable. Saying again what one said last changes nothing.

        Raises Forbidden, NotFound for a report or finding that is not here, and InvalidInput for what cannot be said.
        """
        return self._writing().say(principal, given)

    def form(self, principal: Principal, report: str, tracking_uid: str) -> Form:
        """What of a finding can be corrected, and to what. Raises Forbidden, NotFound and InvalidInput."""
        return self._writing().form(principal, report, tracking_uid)

    def _writing(self) -> VerdictWriter:
        with self._making:
            if self._writer is None:
                from analysis.verdict_writing import VerdictWriter

                self._writer = VerdictWriter(self._archive, self._clock)
            return self._writer

    def listed(self, principal: Principal, study: str | None = None, report: str | None = None) -> list[Verdict]:
        """Verdicts on a study, on a report, or all that the principal may see, in the order of time."""
        conditions = []
        if study is not None:
            conditions.append(sql.v.study_instance_uid == study)
        if report is not None:
            conditions.append(sql.v.report_uid == report)
        with self._index.read() as conn:
            rows = sql.listed(conn, principal.scope, *conditions)
        counting = {row.id for row in latest(rows).values()}
        return [told(row, row.id in counting) for row in rows]

    def accuracy(self, principal: Principal, plugin: str | None = None, reader: str | None = None) -> list[Accuracy]:
        """A line for each plug-in version."""
        conditions = [sql.v.plugin == plugin] if plugin else []
        with self._index.read() as conn:
            return table(sql.listed(conn, principal.scope, *conditions), reader)

    def corrections(
        self, principal: Principal, plugin: str | None = None, reader: str | None = None
    ) -> list[Correction]:
        """A line for each thing that readers corrected of a plug-in version."""
        conditions = [sql.v.plugin == plugin] if plugin else []
        with self._index.read() as conn:
            return corrections(sql.listed(conn, principal.scope, *conditions), reader)
