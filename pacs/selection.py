"""What a retrieval means: a patient, studies, series or instances by their unique keys, as the instances to be sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select

from pacs.auth import Principal, Right
from pacs.dicom.attributes import Level
from pacs.index import corrections, schema
from pacs.index.engine import Index
from pacs.retrieve import InstanceLocation
from pacs.storage.base import Locator

_IN_ONE_LIST = 500


@dataclass(frozen=True, slots=True)
class Selection:
    """The unique keys of a retrieval (PS3.4 C.4.2.1.4): those of `level` may be several, an empty tuple is "any"."""

    level: Level
    patient_id: str = ""
    study_instance_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()


def locate(index: Index, principal: Principal, selection: Selection) -> list[InstanceLocation]:
    """The instances selected that the principal may see: by study, series and instance number; none is no error.

    They come without their frame tables and bulk values, which sending does not need. Raises Forbidden, Unavailable.
    """
    principal.require(Right.READ)
    found = dict[str, InstanceLocation]()
    with index.read() as conn:
        for statement in _statements(selection, principal.scope):
            for row in conn.execute(statement):
                found.setdefault(row.sop_instance_uid, _location(row))
    return list(found.values())


def _statements(selection: Selection, scope: str) -> Iterator[Select[Any]]:
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    corrected = corrections.corrected_study
    base = (
        select(
            s.study_instance_uid, r.series_instance_uid, i.sop_instance_uid, i.sop_class_uid, i.transfer_syntax_uid,
            i.object_key, i.object_offset, i.object_length, i.dataset_offset, i.digest, i.source_ae, i.id,
            corrected.c.overlay,
        )
        .join_from(schema.instance, schema.series, r.id == i.series_key)
        .join(schema.study, s.id == i.study_key)
        .join(corrected, corrected.c.study_instance_uid == s.study_instance_uid, isouter=True)
        .order_by(s.id, r.series_number.nulls_last(), r.id, i.instance_number.nulls_last(), i.id)
    )  # fmt: skip
    if scope:
        base = base.where(s.scope == scope)
    if selection.patient_id:
        base = base.where(s.patient_id == selection.patient_id)
    lists = (
        (s.study_instance_uid, selection.study_instance_uids),
        (r.series_instance_uid, selection.series_instance_uids),
        (i.sop_instance_uid, selection.sop_instance_uids),
    )
    longest, values = max(lists, key=lambda each: len(each[1]))
    for column, wanted in lists:
        if wanted and column is not longest:
            base = base.where(column.in_(wanted))
    if not values:
        yield base
    for at in range(0, len(values), _IN_ONE_LIST):
        yield base.where(longest.in_(values[at : at + _IN_ONE_LIST]))


def _location(row: Any) -> InstanceLocation:
    return InstanceLocation(
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        locator=Locator(row.object_key, row.object_offset, row.object_length),
        dataset_offset=row.dataset_offset,
        digest=row.digest,
        size=row.object_length - row.dataset_offset,
        frames=None,
        bulk=(),
        source_ae=row.source_ae,
        instance_key=row.id,
        overlay=row.overlay,
    )
