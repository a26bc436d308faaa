"""Corrections of identity: who corrected what, which studies it holds for, and what these were before.

The rows of a corrected study in `study` hold the corrected values, so every search sees them; `corrected_study` keeps
what they were as received (`base`), and the revisions that objects and metadata get on the way out (`overlay`,
`pacs.dicom.overlay`). `study_keep` marks studies that no retention rule may touch.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import (
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    Table,
    UniqueConstraint,
    bindparam,
    select,
)

from pacs.index.schema import _ID, _TEXT, metadata
from pacs.index.statement import Found, Statement

correction = Table(
    "correction",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("uuid", _TEXT, nullable=False, unique=True),
    Column("kind", _TEXT, nullable=False),  # "merge", "patient", "relink" or "study"
    Column("changes", LargeBinary, nullable=False),  # DICOM JSON; null for an attribute that goes
    Column("from_patient_id", _TEXT),  # merge: whose later studies follow, folded as for matching
    Column("from_issuer", _TEXT),
    Column("scope", _TEXT, nullable=False),
    Column("principal", _TEXT, nullable=False),
    Column("reason", _TEXT, nullable=False),
    Column("at", Double, nullable=False),
    Column("undone_at", Double),
    Column("undone_by", _TEXT),
    Index("correction_from", "from_patient_id", "undone_at"),
    sqlite_autoincrement=True,
)

correction_study = Table(
    "correction_study",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("correction_id", _ID, ForeignKey("correction.id", ondelete="CASCADE"), nullable=False),
    Column("study_instance_uid", _TEXT, nullable=False, index=True),
    Column("before", LargeBinary, nullable=False),  # DICOM JSON of the same attributes, null for absent ones
    UniqueConstraint("correction_id", "study_instance_uid"),
)

corrected_study = Table(
    "corrected_study",
    metadata,
    Column("study_instance_uid", _TEXT, primary_key=True),
    Column("overlay", LargeBinary, nullable=False),
    Column("base", LargeBinary, nullable=False),  # columns, row and extra of the study as received, JSON
)

study_keep = Table(
    "study_keep",
    metadata,
    Column("study_instance_uid", _TEXT, primary_key=True),
    Column("principal", _TEXT, nullable=False),
    Column("reason", _TEXT, nullable=False),
    Column("at", Double, nullable=False),
)

_c, _cs = correction.c, correction_study.c
OVERLAY = select(corrected_study.c.overlay).where(corrected_study.c.study_instance_uid == bindparam("study"))
"""The overlay of the study that the parameter `study` names: for use as a scalar subquery."""

_OF_STUDY = Statement(
    select(_c.id)
    .join_from(correction_study, correction, _c.id == _cs.correction_id)
    .where(_cs.study_instance_uid == bindparam("study"), _c.undone_at.is_(None))
    .limit(1)
)
_OF_PATIENT = Statement(
    select(_c.id, _c.from_issuer, _c.scope)
    .where(_c.from_patient_id == bindparam("patient"), _c.undone_at.is_(None))
    .order_by(_c.id)
)


def concerns(conn: Connection, study_instance_uid: str, patient_id: str | None) -> bool:
    """Whether a correction waits for a study that is new here: its own from before, or a merge of its patient."""
    if _OF_STUDY.first(conn, {"study": study_instance_uid}) is not None:
        return True
    return patient_id is not None and _OF_PATIENT.first(conn, {"patient": patient_id}) is not None


def merges_of(conn: Connection, patient_id: str, issuer: str | None, scope: str) -> list[int]:
    """The ids of the merges that say whose studies those of this patient are now, in their order.

    Issuers have to be the same where both are known; a scoped merge concerns its own scope only.
    """
    return [
        row.id
        for row in _OF_PATIENT.all(conn, {"patient": patient_id})
        if (row.from_issuer is None or issuer is None or row.from_issuer == issuer) and row.scope in ("", scope)
    ]


def active(conn: Connection, study_instance_uid: str) -> Sequence[Found]:
    """The corrections that hold for a study, in their order."""
    wanted = (
        select(_c.id, _c.changes, _c.principal, _c.at)
        .join_from(correction_study, correction, _c.id == _cs.correction_id)
        .where(_cs.study_instance_uid == study_instance_uid, _c.undone_at.is_(None))
        .order_by(_c.id)
    )
    return conn.execute(wanted).all()
