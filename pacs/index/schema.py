"""The tables of the index, schema 1: what exists, what is searchable, what happened, what is to be done.

The same definitions serve SQLite and PostgreSQL. Times are Unix seconds (double precision); JSON is kept as bytes.
Searchable columns come from `pacs.dicom.attributes.TABLE` and hold values folded by `pacs.dicom.matching`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    TEXT,
    BigInteger,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

from pacs.dicom.attributes import TABLE, Attribute, Level

SCHEMA_VERSION = 1

metadata = MetaData()

# Code point order in both databases, so that ranges and prefixes mean the same and can use an index.
_TEXT = Text().with_variant(TEXT(collation="C"), "postgresql")
_ID = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY is SQLite's row id
_WHERE = "where"


def _columns(*levels: Level) -> list[Column[Any]]:
    def kind(attribute: Attribute) -> TypeEngine[Any]:
        return BigInteger() if attribute.vr in ("IS", "US") else _TEXT

    own = {"study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid", "transfer_syntax_uid"}
    return [
        Column(column, kind(attribute))
        for attribute in TABLE
        if attribute.level in levels and "." not in attribute.tag
        for column in attribute.columns
        if column not in own
    ]


def _rare(name: str, column: str) -> list[Index]:
    """An index of the rows that have a value in a column that most leave empty: the others cost nothing."""
    return [Index(name, column, info={_WHERE: f"{column} IS NOT NULL"})]


def create_all(conn: Connection) -> None:
    """Make all tables and indexes in an empty database."""
    for table in metadata.tables.values():
        for index in table.indexes:
            if (where := index.info.get(_WHERE)) is not None:  # to say it above would load both dialects at each start
                index.dialect_options[conn.dialect.name]["where"] = text(where)
    metadata.create_all(conn)


meta = Table("meta", metadata, Column("name", _TEXT, primary_key=True), Column("value", _TEXT, nullable=False))

study = Table(
    "study",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("study_instance_uid", _TEXT, nullable=False, unique=True),
    Column("scope", _TEXT, nullable=False),
    Column("principal", _TEXT, nullable=False),
    *_columns(Level.PATIENT, Level.STUDY),
    Column("number_of_series", BigInteger, nullable=False),
    Column("number_of_instances", BigInteger, nullable=False),
    Column("row", LargeBinary, nullable=False),  # the ready QIDO-RS result
    Column("extra", LargeBinary, nullable=False),  # other attributes of the level, as DICOM JSON
    Column("created_at", Double, nullable=False),
    Column("last_instance_at", Double),  # last arrival that is no result of ours; NULL = never one
    Column("stable_at", Double),
    Column("fingerprint", _TEXT),
    Index("study_patient", "patient_id", "issuer_of_patient_id"),
    Index("study_patient_name", "patient_name"),
    *_rare("study_patient_name_ideographic", "patient_name_ideographic"),
    *_rare("study_patient_name_phonetic", "patient_name_phonetic"),
    Index("study_name_words", "patient_name_words"),  # read as a whole: narrower than the rows
    Index("study_date", "study_date"),
    Index("study_accession", "accession_number"),
    Index("study_unstable", "stable_at"),  # few are; without their last arrival, which each instance moves
)

series = Table(
    "series",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("study_key", _ID, ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    Column("series_instance_uid", _TEXT, nullable=False, index=True),
    *_columns(Level.SERIES),
    Column("number_of_instances", BigInteger, nullable=False),
    Column("row", LargeBinary, nullable=False),
    Column("extra", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("study_key", "series_instance_uid"),
    Index("series_modality", "modality", "study_key"),
)

series_request = Table(
    "series_request",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("series_key", _ID, ForeignKey("series.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("scheduled_procedure_step_id", _TEXT, index=True),
    Column("requested_procedure_id", _TEXT, index=True),
)

instance = Table(
    "instance",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("study_key", _ID, ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    Column("series_key", _ID, ForeignKey("series.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("sop_instance_uid", _TEXT, nullable=False, unique=True),
    Column("sop_class_uid", _TEXT, nullable=False),
    Column("transfer_syntax_uid", _TEXT, nullable=False),
    *_columns(Level.IMAGE),
    Column("row", LargeBinary, nullable=False),
    Column("digest", _TEXT, nullable=False),  # BLAKE3 of data set bytes and transfer syntax, hex
    Column("object_key", _TEXT, nullable=False),
    Column("object_offset", BigInteger, nullable=False),
    Column("object_length", BigInteger, nullable=False),
    Column("dataset_offset", BigInteger, nullable=False),  # within the object: preamble and File Meta go before
    Column("principal", _TEXT, nullable=False),
    Column("source_ae", _TEXT, nullable=False),
    Column("result_of", _TEXT),  # Workitem UID of our own results
    Column("created_at", Double, nullable=False),
    # Last, since they may be long: what reads the others does not read them.
    Column("bulk", LargeBinary, nullable=False),  # JSON [[path, vr, offset, length], ...]
    Column("frames", LargeBinary),  # FrameTable.to_bytes
    Index("instance_study", "study_key", "sop_class_uid"),
    Index("instance_object", "object_key", "object_offset"),  # who owns these bytes
)

instance_metadata = Table(
    "instance_metadata",
    metadata,
    Column("instance_key", _ID, ForeignKey("instance.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("json", LargeBinary, nullable=False),  # zlib; DICOM JSON with 0xFF for the instance's own address
)

change = Table(
    "change",
    metadata,
    Column("seq", _ID, primary_key=True, autoincrement=True),
    Column("kind", _TEXT, nullable=False),
    Column("study_instance_uid", _TEXT),
    Column("series_instance_uid", _TEXT),
    Column("sop_instance_uid", _TEXT),
    Column("workitem_uid", _TEXT),
    Column("fingerprint", _TEXT),
    Column("principal", _TEXT, nullable=False),
    Column("scope", _TEXT, nullable=False),
    Column("at", Double, nullable=False),
)
"""Nothing is ever deleted of it, nor of `audit`: no sequence number is given twice, and SQLite need not count."""

cursor = Table("cursor", metadata, Column("name", _TEXT, primary_key=True), Column("seq", BigInteger, nullable=False))

audit = Table(
    "audit",
    metadata,
    Column("seq", _ID, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("event", _TEXT, nullable=False),
    Column("principal", _TEXT, nullable=False),
    Column("principal_kind", _TEXT, nullable=False),
    Column("outcome", _TEXT, nullable=False),
    Column("study_instance_uid", _TEXT),
    Column("series_instance_uid", _TEXT),
    Column("sop_instance_uid", _TEXT),
    Column("workitem_uid", _TEXT),
    Column("detail", _TEXT, nullable=False),  # never patient data
)

tombstone = Table(
    "tombstone",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("sop_instance_uid", _TEXT, nullable=False, index=True),
    Column("series_instance_uid", _TEXT, nullable=False),
    Column("study_instance_uid", _TEXT, nullable=False),
    Column("digest", _TEXT, nullable=False),
    Column("object_key", _TEXT, nullable=False, index=True),
    Column("object_offset", BigInteger, nullable=False),
    Column("object_length", BigInteger, nullable=False),
    Column("state", _TEXT, nullable=False, index=True),  # "pending", "removed", or "kept": stored again in between
    Column("principal", _TEXT, nullable=False),
    Column("at", Double, nullable=False),
)

workitem = Table(
    "workitem",
    metadata,
    Column("uid", _TEXT, primary_key=True),
    Column("state", _TEXT, nullable=False),  # PS3.4 CC.1.1
    Column("plugin", _TEXT),
    Column("version", _TEXT),  # of the plug-in: that it was made for, later that which did it
    Column("needs_version", _TEXT, nullable=False, default=""),  # only workers that have it take it; "" = any do
    Column("priority", Integer, nullable=False),
    Column("study_instance_uid", _TEXT, index=True),
    Column("task_key", _TEXT, unique=True),
    Column("attributes", LargeBinary, nullable=False),  # DICOM JSON
    Column("transaction_uid", _TEXT),
    Column("label", _TEXT, nullable=False, default=""),  # Procedure Step Label
    Column("patient_id", _TEXT, index=True),
    Column("scheduled_at", _TEXT),  # Scheduled Procedure Step Start DateTime, as folded for matching
    Column("attempt", Integer, nullable=False, default=0),
    Column("losses", Integer, nullable=False, default=0),  # attempts whose worker or process was lost
    Column("failing_since", Double),  # first failure of a row of failures whose cause may pass
    Column("lease_token", _TEXT),
    Column("lease_until", Double),
    Column("worker", _TEXT),
    Column("progress", Double),
    Column("message", _TEXT),
    Column("reason", _TEXT),
    Column("cancel_requested", Integer, nullable=False, default=0),
    Column("not_before", Double),
    Column("expires_at", Double),  # Scheduled Procedure Step Expiration DateTime: not begun after it
    Column("offered_at", Double),
    Column("rule", _TEXT),  # which rule made it; NULL = a request
    Column("request_key", _TEXT, index=True),  # same plug-in, parameters and inputs as they were named
    Column("ended", _TEXT),  # why it is in its final state: a word of `pacs.leases.ENDS`
    Column("superseded_by", _TEXT),  # the Workitem whose results replace its own
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("revision", BigInteger, nullable=False, default=0),
    Column("principal", _TEXT, nullable=False),
    Column("scope", _TEXT, nullable=False),
    Index(  # the queue of a plug-in in its order, and all that is asked of it to count what waits
        "workitem_claim",
        "state",
        "plugin",
        "needs_version",
        "priority",
        "created_at",
        "uid",
        "not_before",
        "cancel_requested",
        "lease_token",
        "worker",
    ),
    Index("workitem_lease", "state", "lease_until"),
    Index("workitem_updated", "updated_at"),
    Index("workitem_newest", "created_at", "uid"),
    Index("workitem_ended", "ended", "updated_at"),
    *_rare("workitem_expiry", "expires_at"),
)

credential = Table(
    "credential",
    metadata,
    Column("id", _TEXT, primary_key=True),
    Column("kind", _TEXT, nullable=False),  # "token", "link" or "session"
    Column("name", _TEXT, nullable=False),
    Column("digest", _TEXT, nullable=False, unique=True),
    Column("rights", _TEXT, nullable=False),
    Column("scope", _TEXT, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("used_at", Double),
    Column("revoked_at", Double),
)
