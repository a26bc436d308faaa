"""What a retrieval means: a patient, studies, series or instances by their unique keys, as the instances to be sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, select

from pacs.auth import Principal, Right
from pacs.dicom.attributes import Level
from pacs.index import corrections, schema
from pacs.index.engine import Index
from pacs.index.statement import Statement
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
    keys: dict[str, tuple[str, ...]] = {
        "scope": (principal.scope,) if principal.scope else (),
        "patient": (selection.patient_id,) if selection.patient_id else (),
        "study": selection.study_instance_uids,
        "series": selection.series_instance_uids,
        "sop": selection.sop_instance_uids,
    }
    given = {name: values for name, values in keys.items() if values}
    if all(len(values) == 1 for values in given.values()):
        found = index.fetch(_one_each(tuple(given)), {name: values[0] for name, values in given.items()})
        return [_location(row) for row in found]
    several: dict[str, InstanceLocation] = {}
    with index.read() as conn:
        for statement in _lists(given):
            for row in conn.execute(statement):
                several.setdefault(row.sop_instance_uid, _location(row))
    return list(several.values())


_COLUMNS: dict[str, ColumnElement[Any]] = {
    "scope": schema.study.c.scope,
    "patient": schema.study.c.patient_id,
    "study": schema.study.c.study_instance_uid,
    "series": schema.series.c.series_instance_uid,
    "sop": schema.instance.c.sop_instance_uid,
}


def _everything() -> Select[Any]:
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    corrected = corrections.corrected_study
    return (
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


@cache
def _one_each(names: tuple[str, ...]) -> Statement:
    return Statement(_everything().where(*(_COLUMNS[name] == bindparam(name) for name in names)))


def _lists(given: Mapping[str, tuple[str, ...]]) -> Iterator[Select[Any]]:
    """Statements for keys with several values, the longest list in parts."""
    longest = max(given, key=lambda name: len(given[name]))
    others = [_COLUMNS[name].in_(values) for name, values in given.items() if name != longest]
    for at in range(0, len(given[longest]), _IN_ONE_LIST):
        yield _everything().where(*others, _COLUMNS[longest].in_(given[longest][at : at + _IN_ONE_LIST]))


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
