"""The outbox of the journal: what happened to the store beyond arrivals, until it is written there as well.

A row is made in the transaction that does the thing and marked once a sidecar in the store says the same
(`pacs.journal`), so neither a crash nor the loss of this database makes the two disagree for good.
"""

from __future__ import annotations

from sqlalchemy import Column, Double, LargeBinary, Table
from sqlalchemy import Index as TableIndex

from pacs.index.schema import _ID, _TEXT, metadata

journal = Table(
    "journal",
    metadata,
    Column("seq", _ID, primary_key=True, autoincrement=True),
    Column("uuid", _TEXT, nullable=False, unique=True),
    Column("kind", _TEXT, nullable=False),
    Column("facts", LargeBinary, nullable=False),  # JSON; those of corrections hold patient data, as the objects do
    Column("at", Double, nullable=False),
    Column("exported_at", Double),  # NULL = no sidecar yet
    TableIndex("journal_waiting", "exported_at"),
    sqlite_autoincrement=True,
)
