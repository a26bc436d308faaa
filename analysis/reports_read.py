"""Reads measurement reports (PS3.16 TID 1500) back out of the archive: findings with their ids, numbers and places.

From the metadata in the index (DICOM JSON), so that no object is opened; whatever wrote the report, ours or not.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import select

from analysis.api import Code, Finding, Measurement, TaskResult
from pacs.dicom import json_model, ups, ups_task
from pacs.index import schema, workitems

if TYPE_CHECKING:
    from pacs.index.engine import Index

CONTENT, VALUE_TYPE, NAME, CODE, TEXT, UID = "0040A730", "0040A040", "0040A043", "0040A168", "0040A160", "0040A124"
MEASURED, NUMBER, FLOAT, UNITS = "0040A300", "0040A30A", "0040A161", "004008EA"
MEASUREMENT_GROUP, TRACKING_ID, TRACKING_UID = "125007", "112039", "112040"
FINDING, CONCLUSION = "121071", "121077"
SR_CLASSES = ("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.22")
SOFTWARE_VERSIONS, DEVICE_SERIAL_NUMBER = "00181020", "00181000"

Item = Mapping[str, Any]


def metadata(index: Index, sop_instance_uids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """DICOM JSON of the instances that are here, by SOP Instance UID."""
    i, m = schema.instance.c, schema.instance_metadata.c
    found: dict[str, dict[str, Any]] = {}
    with index.read() as conn:
        for at in range(0, len(sop_instance_uids), 500):
            some = list(sop_instance_uids[at : at + 500])
            wanted = select(i.sop_instance_uid, m.json).join_from(
                schema.instance, schema.instance_metadata, m.instance_key == i.id
            )
            for uid, raw in conn.execute(wanted.where(i.sop_instance_uid.in_(some))):
                found[uid] = orjson.loads(zlib.decompress(raw).replace(json_model.HERE, b""))
    return found


def items(of: Item) -> list[Item]:
    """What stands below a content item."""
    found: list[Item] = (of.get(CONTENT) or {}).get("Value") or []
    return found


def concept(of: Item, tag: str = NAME) -> Code | None:
    """The concept name of a content item, or another code of it."""
    found = next(iter((of.get(tag) or {}).get("Value") or ()), None)
    if found is None:
        return None
    value, scheme = ups.code_value(found)
    return Code(value or "", scheme or "", str(ups.value(found, "00080104") or ""))


def named(of: Item, code: str) -> Iterator[Item]:
    """The content items directly below that have that concept name (scheme DCM)."""
    for each in items(of):
        name = concept(each)
        if name is not None and (name.value, name.scheme) == (code, "DCM"):
            yield each


def groups(report: Item) -> Iterator[Item]:
    """The Measurement Groups of a report (TID 1410, 1411, 1501), in order."""
    for each in items(report):
        name = concept(each)
        if name is not None and (name.value, name.scheme) == (MEASUREMENT_GROUP, "DCM"):
            yield each
        elif ups.value(each, VALUE_TYPE) == "CONTAINER":
            yield from groups(each)


def text_of(of: Item, code: str, tag: str) -> str:
    """The value of the first item of that name, "" where there is none."""
    return next((str(ups.value(each, tag) or "") for each in named(of, code)), "")


def measurements(group: Item) -> Iterator[Measurement]:
    """The numbers of a group."""
    for each in items(group):
        if ups.value(each, VALUE_TYPE) != "NUM":
            continue
        measured: Item = next(iter((each.get(MEASURED) or {}).get("Value") or ()), {})
        raw = ups.value(measured, FLOAT)
        raw = ups.value(measured, NUMBER) if raw is None else raw
        name, unit = concept(each), concept(measured, UNITS)
        if raw is not None and name is not None:
            yield Measurement(name, float(raw), unit or Code("1", "UCUM", "no units"))


def findings(report: Item) -> tuple[Finding, ...]:
    """The findings of a report: its groups that say what was found or measured."""
    found = []
    for group in groups(report):
        what = next((concept(each, CODE) for each in named(group, FINDING)), None)
        numbers = tuple(measurements(group))
        if what is not None or numbers:
            tracked = text_of(group, TRACKING_UID, UID)
            found.append(Finding(tracked, text_of(group, TRACKING_ID, TEXT), what, numbers))
    return tuple(found)


def conclusions(report: Item) -> Iterator[str]:
    """The conclusions in words, wherever they stand."""
    for each in items(report):
        name = concept(each)
        if name is not None and (name.value, name.scheme) == (CONCLUSION, "DCM"):
            yield str(ups.value(each, TEXT) or "")
        yield from conclusions(each)


def is_report(ds: Item) -> bool:
    """Whether it is an SR document with measurement groups: a TID 1500 report, and no CAD or dose report."""
    return ups.value(ds, "00080016") in SR_CLASSES and next(groups(ds), None) is not None


def result(index: Index, workitem_uid: str, label: str = "", target: str = "") -> TaskResult | None:
    """What a finished Workitem gave, None where it is gone."""
    with index.read() as conn:
        row = workitems.get(conn, workitem_uid)
    if row is None:
        return None
    attributes = row.attributes
    made = [sop for each in ups_task.outputs_of(attributes) for _, sop in each.instances]
    classes = {sop: sop_class for each in ups_task.outputs_of(attributes) for sop_class, sop in each.instances}
    read = list(metadata(index, [sop for sop in made if classes[sop] in SR_CLASSES]).values())
    reports = [ds for ds in read if is_report(ds)]
    return TaskResult(
        study_instance_uid=row.study_instance_uid or "",
        target=target,
        label=label or str(ups.value(attributes, ups.LABEL) or ""),
        workitem_uid=workitem_uid,
        completed=row.state is ups.State.COMPLETED,
        reason=row.reason,
        version=row.version or version_of(index, made),
        parameters=ups_task.parameters_of(attributes),
        findings=tuple(each for ds in reports for each in findings(ds)),
        conclusion=" ".join(each for ds in reports for each in conclusions(ds)),
        sop_instance_uids=tuple(made),
    )


def version_of(index: Index, sop_instance_uids: Iterable[str]) -> str:
    """The version of the plug-in that made these results, as they say themselves; "" where none is here."""
    for ds in metadata(index, list(sop_instance_uids)[:1]).values():
        return str(ups.value(ds, SOFTWARE_VERSIONS) or "")
    return ""
