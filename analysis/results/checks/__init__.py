"""Checks of results before they are filed: modules, pixels, content trees, templates, payloads and references.

Our own, and independent of the encoders: they read the files that are about to be stored. What they find is told in
words that name attributes and places, never values, so that a report holds no patient data.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pydicom import Dataset, dcmread

from analysis.results.checks import attributes, concepts, images, payloads, presentation, references, templates, trees
from analysis.results.inherited import patient_and_study

MOST_TOLD = 20


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong. index: of the result; words: what, and where in it."""

    index: int
    sop_instance_uid: str
    words: str


def examine(files: Sequence[bytes], sources: Sequence[Dataset]) -> list[Defect]:
    """Everything that is wrong with the results of one task, as Part 10 files; empty when nothing is.

    sources: the inputs without pixel data. Of one object no more than MOST_TOLD defects are told.
    """
    results: list[Dataset] = []
    inherited = attributes.Inherited(sources)
    sizes = {str(ds.SOPInstanceUID): (int(ds.get("Rows") or 0), int(ds.get("Columns") or 0)) for ds in sources}
    found: list[tuple[int, str]] = []
    for number, data in enumerate(files):
        ds, told = read(data, inherited, sizes)
        results.append(ds)
        found += [(number, words) for words in told]
    known = {
        str(ds.SOPInstanceUID): references.Source(str(ds.SOPClassUID), str(ds.get("StudyInstanceUID")))
        for ds in sources
    }
    try:
        found += references.defects(results, known, _study(sources))
    except (AttributeError, TypeError, ValueError) as error:
        found.append((0, f"the references cannot be followed: {type(error).__name__}"))
    return [Defect(number, str(results[number].get("SOPInstanceUID") or ""), words) for number, words in found]


def read(
    data: bytes, inherited: attributes.Inherited, sizes: dict[str, tuple[int, int]]
) -> tuple[Dataset, Sequence[str]]:
    """One object out of its file, and what is wrong with it by itself; an empty data set where it cannot be read."""
    told: list[str] = []
    try:
        ds = dcmread(io.BytesIO(data))
        told += islice(attributes.defects(ds, inherited), MOST_TOLD)
    except Exception as error:  # whatever pydicom says of bytes that are no DICOM
        told.append(f"it cannot be read: {type(error).__name__}")
        ds = Dataset()
    return ds, [*told, *islice(_alone(ds, sizes), MOST_TOLD)]


def _alone(ds: Dataset, sizes: dict[str, tuple[int, int]]) -> Iterator[str]:
    for check in (images.defects, payloads.defects, templates.defects, concepts.defects, presentation.defects):
        yield from _guarded(check.__module__, check(ds))
    yield from _guarded(trees.__name__, trees.defects(ds, sizes))


def _guarded(name: str, found: Iterable[str]) -> Iterator[str]:
    """What a check finds; one that stumbles over values nobody foresaw has found something too."""
    try:
        yield from found
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        yield f"{name.rpartition('.')[2]} cannot be judged: {type(error).__name__}"


def _study(sources: Sequence[Dataset]) -> dict[str, str]:
    """Patient and study of the first input, as results carry them."""
    if not sources:
        return {}
    carried = Dataset()
    for element in patient_and_study(sources[0]):
        carried.add(element)
    told = {keyword: str(carried.get(keyword) or "") for keyword in references.SAME}
    # Text beyond ASCII may be broken in the input, and then reads otherwise once it was written as it should be.
    return {keyword: text for keyword, text in told.items() if text.isascii()}
