"""Which stored instances a plug-in takes: its declared tests on their attributes, from the index alone.

Results of our own never match, so that no analysis is started by another one's output.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from sqlalchemy import select

from analysis.api import Input, Manifest, When
from pacs.auth import Principal
from pacs.dicom import dictionary, json_model, overlay
from pacs.dicom.ups_task import References
from pacs.index import corrections, schema
from pacs.index.engine import Index

_AT_HAND = ("SOPClassUID", "Modality")  # known without reading an instance's metadata: asked first
_IMAGE_TYPE = "00080008"
_ROWS = "00280010"


class Candidate:
    """One stored instance, its metadata read from the index when first asked for."""

    def __init__(self, index: Index, row: Any) -> None:
        self._index = index
        self._key = row.id
        self.study_instance_uid: str = row.study_instance_uid
        self.series_instance_uid: str = row.series_instance_uid
        self.sop_instance_uid: str = row.sop_instance_uid
        self.sop_class_uid: str = row.sop_class_uid
        self.digest: str = row.digest
        self.modality: str = row.modality or ""

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Its DICOM JSON; empty where it was removed in between."""
        t = schema.instance_metadata.c
        with self._index.read() as conn:
            raw = conn.execute(select(t.json).where(t.instance_key == self._key)).scalar()
        # 0xFF stands for the instance's own address, which nobody asks for here.
        found: dict[str, Any] = {} if raw is None else orjson.loads(zlib.decompress(raw).replace(json_model.HERE, b""))
        return found

    @property
    def corrected(self) -> dict[str, Any]:
        """Its DICOM JSON with the corrections of its study: who the patient is now."""
        t = corrections.corrected_study.c
        with self._index.read() as conn:
            raw = conn.execute(select(t.overlay).where(t.study_instance_uid == self.study_instance_uid)).scalar()
        return overlay.applied(self.metadata, overlay.loads(raw))

    def values(self, keyword: str) -> list[str]:
        """The values of an attribute as text."""
        if keyword == "SOPClassUID":
            return [self.sop_class_uid]
        tag = dictionary.tag(keyword)
        return json_model.texts(self.metadata, f"{tag:08X}") if tag is not None else []

    def text(self, keyword: str) -> str:
        """The first value of an attribute, "" where there is none."""
        return next(iter(self.values(keyword)), "")

    @property
    def is_image(self) -> bool:
        """Whether it has pixels."""
        return json_model.text(self.metadata, _ROWS) is not None

    @property
    def is_localizer(self) -> bool:
        """Whether it is a scout image (PS3.3 C.8.2.1.1.1)."""
        return "LOCALIZER" in json_model.texts(self.metadata, _IMAGE_TYPE)

    def passes(self, tests: Sequence[When]) -> bool:
        """Whether all tests hold."""
        for test in sorted(tests, key=lambda t: t.attribute not in _AT_HAND):
            values = [self.modality] if test.attribute == "Modality" and self.modality else self.values(test.attribute)
            if not holds(test, values):
                return False
        return True


def holds(test: When, values: Sequence[str]) -> bool:
    """Whether the test holds for the values of its attribute; numbers compare as numbers."""
    present = [value for value in values if value != ""]
    if test.op == "exists":
        return bool(present) == (test.value is not False)
    if not present:
        return False
    match test.op:
        case "eq":
            return _equal(present[0], test.value)
        case "in":
            return any(_equal(present[0], each) for each in test.value)
        case "contains":
            return any(_equal(value, test.value) for value in present)
    try:
        number, bound = float(present[0]), float(test.value)
    except (TypeError, ValueError):
        return False
    return number >= bound if test.op == "ge" else number <= bound


def _equal(value: str, wanted: Any) -> bool:
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        return value == str(wanted)
    try:
        return float(value) == wanted
    except ValueError:
        return False


@dataclass(frozen=True)
class Match:
    """Stored instances that one input of a plug-in takes."""

    input: str
    level: str
    instances: tuple[Candidate, ...]

    @property
    def target(self) -> str:
        """What it is a match of, whichever instances are there: the UID of the study, series or instance."""
        first = self.instances[0]
        match self.level:
            case "study":
                return first.study_instance_uid
            case "series":
                return first.series_instance_uid
        return first.sop_instance_uid

    @property
    def references(self) -> tuple[References, ...]:
        """The instances, one References for each series."""
        by_series: dict[str, list[Candidate]] = {}
        for each in self.instances:
            by_series.setdefault(each.series_instance_uid, []).append(each)
        return tuple(
            References(found[0].study_instance_uid, uid, tuple((c.sop_class_uid, c.sop_instance_uid) for c in found))
            for uid, found in by_series.items()
        )

    @property
    def label(self) -> str:
        """What a person calls it: "Series 2: HEAD 1.0 (300 images)"."""
        first, count = self.instances[0], len(self.instances)
        images = f"{count} image{'s' if count > 1 else ''}"
        if self.level == "study":
            return images
        words = f"Series {first.text('SeriesNumber') or '?'}"
        if self.level == "instance":
            view = " ".join(filter(None, (first.text("ImageLaterality"), first.text("ViewPosition"))))
            return f"{words}, image {first.text('InstanceNumber') or '?'}{f' ({view})' if view else ''}"
        description = first.text("SeriesDescription")
        return f"{words}: {description} ({images})" if description else f"{words} ({images})"


def candidates(index: Index, study_instance_uid: str, principal: Principal) -> list[Candidate]:
    """The study's instances that are no results of ours and that the principal may see, by series and number."""
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    wanted = (
        select(
            i.id, s.study_instance_uid, r.series_instance_uid, i.sop_instance_uid, i.sop_class_uid, i.digest, r.modality
        )
        .join_from(schema.instance, schema.series, r.id == i.series_key)
        .join(schema.study, s.id == i.study_key)
        .where(s.study_instance_uid == study_instance_uid, i.result_of.is_(None))
        .order_by(r.series_number.nulls_last(), r.id, i.instance_number.nulls_last(), i.id)
    )
    if principal.scope:
        wanted = wanted.where(s.scope == principal.scope)
    with index.read() as conn:
        return [Candidate(index, row) for row in conn.execute(wanted)]


def matches(wanted: Input, found: Sequence[Candidate]) -> Iterator[Match]:
    """Every match of one input. A series is judged by its first image that is no localiser."""
    if wanted.level != "series":
        passing = [each for each in found if each.passes(wanted.where) and each.is_image]
        groups = [passing] if wanted.level == "study" else [[each] for each in passing]
    else:
        by_series: dict[str, list[Candidate]] = {}
        for each in found:
            by_series.setdefault(each.series_instance_uid, []).append(each)
        groups = [group for group in by_series.values() if _series_passes(wanted, group)]
    for group in groups:
        if group and len(group) >= wanted.min_instances:
            yield Match(wanted.name, wanted.level, tuple(group))


def _series_passes(wanted: Input, group: Sequence[Candidate]) -> bool:
    if len(group) < wanted.min_instances:
        return False
    cheap = [test for test in wanted.where if test.attribute == "SOPClassUID"]
    if not group[0].passes(cheap) and not group[-1].passes(cheap):
        return False
    judged = next((each for each in group[:8] if not each.is_localizer), group[0])
    return judged.is_image and judged.passes(wanted.where)


def tasks(manifest: Manifest, found: Sequence[Candidate]) -> Iterator[tuple[Match, ...]]:
    """The inputs of every task: one for each match of the first input, with the first match of each other one."""
    first, *others = manifest.inputs
    rest = []
    for other in others:
        match = next(matches(other, found), None)
        if match is None:
            return
        rest.append(match)
    for match in matches(first, found):
        yield (match, *rest)
