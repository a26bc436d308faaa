"""Readers' verdicts on findings of plug-ins: a row for each verification SR, and the SQL of them.

Rows say again what the documents say, so that accuracy is one query; `analysis.verdicts` reads them out of documents
that come from elsewhere, or from a store whose index is made again. The latest verdict of a reader on a finding counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Double, Index, Integer, LargeBinary, Row, Table, delete, select, update

from pacs.index import schema
from pacs.index.schema import _ID, _TEXT, metadata
from pacs.index.statement import insert_of

verdict = Table(
    "verdict",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("sop_instance_uid", _TEXT, nullable=False, unique=True),  # of the verification SR
    Column("series_instance_uid", _TEXT, nullable=False),
    Column("study_instance_uid", _TEXT, nullable=False, index=True),
    Column("report_uid", _TEXT, nullable=False, index=True),  # of the SR that is judged
    Column("findings", Integer, nullable=False),  # how many findings that SR has
    Column("finding", Integer, nullable=False, default=1),  # 0 = what the SR says of an image or of the whole
    Column("tracking_uid", _TEXT, nullable=False),
    Column("tracking_id", _TEXT, nullable=False),
    Column("verdict", _TEXT, nullable=False),  # accepted, rejected, corrected, missed
    Column("comment", _TEXT, nullable=False),
    Column("corrected", LargeBinary, nullable=False),  # JSON: what was corrected, {} where nothing
    Column("plugin", _TEXT, nullable=False),
    Column("version", _TEXT, nullable=False),
    Column("reader", _TEXT, nullable=False),
    Column("scope", _TEXT, nullable=False),
    Column("at", Double, nullable=False),
    Index("verdict_of", "plugin", "version", "tracking_uid", "reader", "at"),
    sqlite_autoincrement=True,
)

VERDICTS = ("accepted", "rejected", "corrected", "missed")

v = verdict.c
_IN_ONE_LIST = 500


def add(conn: Connection, values: Mapping[str, Any]) -> bool:
    """Note a verdict; False where it is known."""
    insert_into = insert_of(conn)
    return conn.execute(insert_into(verdict).values(**values).on_conflict_do_nothing()).rowcount == 1


def latest(conn: Connection, report_uid: str, tracking_uid: str, reader: str) -> Row[Any] | None:
    """The latest verdict of a reader on a finding of a report."""
    wanted = select(verdict).where(v.report_uid == report_uid, v.tracking_uid == tracking_uid, v.reader == reader)
    return conn.execute(wanted.order_by(v.at.desc(), v.id.desc()).limit(1)).first()


def listed(conn: Connection, scope: str, *conditions: Any) -> list[Row[Any]]:
    """Verdicts that fulfil the conditions, oldest first."""
    wanted = select(verdict).where(*conditions).order_by(v.at, v.id)
    return list(conn.execute(wanted.where(v.scope == scope) if scope else wanted))


def known(conn: Connection, sop_instance_uid: str) -> Row[Any] | None:
    """The verdict that this document says."""
    return conn.execute(select(verdict).where(v.sop_instance_uid == sop_instance_uid)).first()


def waiting(conn: Connection, report_uids: Sequence[str]) -> list[str]:
    """Documents of verdicts on these reports that came before them: nobody knew yet of which plug-in they speak."""
    found: list[str] = []
    for at in range(0, len(report_uids), _IN_ONE_LIST):
        some = list(report_uids[at : at + _IN_ONE_LIST])
        wanted = select(v.sop_instance_uid).where(v.report_uid.in_(some), v.plugin == "")
        found += conn.execute(wanted.order_by(v.at, v.id)).scalars()
    return found


def settle(conn: Connection, values: Mapping[str, Any]) -> None:
    """Tell a verdict that is known anew, as its document and its report say it together."""
    conn.execute(update(verdict).where(v.sop_instance_uid == values["sop_instance_uid"]).values(**values))


def forget_gone(conn: Connection) -> None:
    """Forget the verdicts whose documents are gone."""
    here = select(schema.instance.c.id).where(schema.instance.c.sop_instance_uid == v.sop_instance_uid)
    conn.execute(delete(verdict).where(~here.exists()))
