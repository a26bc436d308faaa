"""Which stored instances a plug-in takes: its declared tests on their attributes, from the index alone.

Results of our own are no candidates, so that no analysis is started by another one's output; who asks for results of
a Workitem by its UID (`results`) gets those.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from sqlalchemy import ColumnElement, select

from analysis.api import AnyOf, Input, Manifest, NotAnalysable, When
from analysis.attribute_tests import holds, tags_of
from pacs.auth import Principal
from pacs.dicom import json_model, overlay, ups
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
        self.source_ae: str = row.source_ae or ""
        self.result_of: str | None = row.result_of

    @property
    def identity(self) -> str:
        """What tells its content: its digest; of a result of ours its UID, which derives from what it was made of."""
        return self.digest if self.result_of is None else self.sop_instance_uid

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
        """The values of an attribute as text; keywords joined by dots lead through the items of sequences."""
        if keyword == "SOPClassUID":
            return [self.sop_class_uid]
        *outer, last = (f"{tag:08X}" for tag in tags_of(keyword))
        items = [self.metadata]
        for each in outer:
            items = [inner for item in items for inner in ups.items(item, each)]
        return [text for item in items for text in json_model.texts(item, last)]

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

    def passes(self, tests: Sequence[When | AnyOf]) -> bool:
        """Whether all tests hold."""
        return self.failed(tests) is None

    def failed(self, tests: Sequence[When | AnyOf]) -> When | AnyOf | None:
        """The first test that does not hold; None where all do."""
        for test in sorted(tests, key=_cost):
            if not any(self._holds(each) for each in (test.tests if isinstance(test, AnyOf) else (test,))):
                return test
        return None

    def _holds(self, test: When) -> bool:
        values = [self.modality] if test.attribute == "Modality" and self.modality else self.values(test.attribute)
        return holds(test, values)


def _cost(test: When | AnyOf) -> bool:
    return isinstance(test, AnyOf) or test.attribute not in _AT_HAND


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
    return _candidates(index, study_instance_uid, principal, schema.instance.c.result_of.is_(None))


def results(index: Index, study_instance_uid: str, workitem_uid: str, principal: Principal) -> list[Candidate]:
    """The results of one Workitem in the study, by series and number."""
    return _candidates(index, study_instance_uid, principal, schema.instance.c.result_of == workitem_uid)


def _candidates(
    index: Index, study_instance_uid: str, principal: Principal, condition: ColumnElement[bool]
) -> list[Candidate]:
    s, r, i = schema.study.c, schema.series.c, schema.instance.c
    wanted = (
        select(
            i.id, s.study_instance_uid, r.series_instance_uid, i.sop_instance_uid, i.sop_class_uid, i.digest,
            r.modality, i.source_ae, i.result_of,
        )
        .join_from(schema.instance, schema.series, r.id == i.series_key)
        .join(schema.study, s.id == i.study_key)
        .where(s.study_instance_uid == study_instance_uid, condition)
        .order_by(r.series_number.nulls_last(), r.id, i.instance_number.nulls_last(), i.id)
    )  # fmt: skip
    if principal.scope:
        wanted = wanted.where(s.scope == principal.scope)
    with index.read() as conn:
        return [Candidate(index, row) for row in conn.execute(wanted)]


def matches(wanted: Input, found: Sequence[Candidate], more: Sequence[When | AnyOf] = ()) -> Iterator[Match]:
    """Every match of one input, with `more` tests than its own. A series is judged by its first image that is no scout.

    What is handed over as data sets need not be images.
    """
    tests = (*wanted.where, *more)
    anything = wanted.load == "datasets"
    if wanted.level != "series":
        passing = [each for each in found if each.passes(tests) and (anything or each.is_image)]
        groups = [passing] if wanted.level == "study" else [[each] for each in passing]
    else:
        by_series: dict[str, list[Candidate]] = {}
        for each in found:
            by_series.setdefault(each.series_instance_uid, []).append(each)
        groups = [group for group in by_series.values() if _series_passes(tests, group, anything)]
    for group in groups:
        if group and len(group) >= wanted.min_instances:
            yield Match(wanted.name, wanted.level, tuple(group))


def judged_by(group: Sequence[Candidate]) -> Candidate:
    """The instance that a series is judged by: the first of its first few that is no localiser."""
    return next((each for each in group[:8] if not each.is_localizer), group[0])


def _series_passes(tests: Sequence[When | AnyOf], group: Sequence[Candidate], anything: bool) -> bool:
    cheap = [test for test in tests if isinstance(test, When) and test.attribute == "SOPClassUID"]
    if not group[0].passes(cheap) and not group[-1].passes(cheap):
        return False
    judged = judged_by(group)
    return (anything or judged.is_image) and judged.passes(tests)


Pool = Callable[[Input], Sequence[Candidate]]
"""The instances among which an input is looked for."""


def tasks(manifest: Manifest, found: Sequence[Candidate]) -> Iterator[tuple[Match, ...]]:
    """The inputs of every task among these instances; none where an input that is needed has no match."""
    with contextlib.suppress(NotAnalysable):
        yield from tasks_among(manifest, lambda _: found)


def tasks_among(manifest: Manifest, pool: Pool, more: Sequence[When | AnyOf] = ()) -> Iterator[tuple[Match, ...]]:
    """The inputs of every task but the earlier study: one task for each match of the first input.

    `more` tests are asked of the first input. Of each other one the first match is taken. Raises NotAnalysable where
    one that is needed has none.
    """
    first, *others = manifest.inputs
    rest = []
    for other in others:
        match = None if other.prior else next(matches(other, pool(other)), None)
        if match is not None:
            rest.append(match)
        elif not other.optional and not other.prior:
            raise NotAnalysable(f"nothing fits input {other.name}")
    for match in matches(first, pool(first), more):
        yield (match, *rest)
