"""A study with true results: a CT phantom, and what the bone surface plug-in makes of it, as finished objects."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from pydicom import Dataset

from analysis.api import NO_UNIT, Code, Image, ImageFindings, LabelMap, Mark, Measurement, Segment, Volume
from analysis.evaluation import ct_phantom, mammogram_phantom
from analysis.kit.context import LocalContext
from analysis.plugins import microcalcification
from analysis.plugins.bone_surface import BoneSurfaceParams, plugin
from analysis.results import provenance
from analysis.results.encode import FORMS, encode
from analysis.results.provenance import RunInfo
from pacs import uids


def study_with_results(size: int = 40) -> tuple[list[Dataset], list[Dataset]]:
    """The images, and the results of one run on them."""
    scan = ct_phantom.volume(ct_phantom.Phantom(0.7), size, 67.2 / size, "upright")
    host = LocalContext({"series": scan})
    plugin.run(host, BoneSurfaceParams())
    images = ct_phantom.ct_series(scan)
    headers = []
    for ds in images:
        header = Dataset()
        header.update({element.tag: element for element in ds if element.keyword != "PixelData"})
        headers.append(header)
    run = RunInfo(
        task_key="result objects",
        workitem_uid="1.2.3",
        plugin_id=plugin.manifest.id,
        plugin_version=plugin.manifest.version,
        plugin_title=plugin.manifest.title,
        params=provenance.params_dict(BoneSurfaceParams()),
        backend="numpy",
        when=datetime(2026, 1, 3, 9, 30, tzinfo=UTC),
        sources=tuple(headers),
    )
    return images, encode(run, host.emitted)


def header(ds: Dataset) -> Dataset:
    """An input as encoders see it: without pixel data."""
    found = Dataset()
    found.update({element.tag: element for element in ds if element.keyword != "PixelData"})
    return found


PRIORS = 2
"""How many of the inputs, the last ones, are of an earlier study."""


def volume_results() -> tuple[list[Dataset], list[Dataset]]:
    """Headers of a CT phantom and of a prior, and every kind of result that is made of a volume, in every form."""
    sources = [header(ds) for ds in ct_phantom.ct_series(_scan())]
    priors = prior(sources)
    return [*sources, *priors], volume_objects(sources, priors)


def prior(sources: list[Dataset]) -> list[Dataset]:
    """Two instances of an earlier study, as an input of the same task."""
    found = copy.deepcopy(sources[:PRIORS])
    for ds in found:
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(ds, keyword, uids.derived("prior", ds[keyword].value))
        ds.StudyDate = "20240102"
    return found


def volume_objects(sources: list[Dataset], priors: Sequence[Dataset] = ()) -> list[Dataset]:
    """What is made of the volume of a phantom with such headers, a slice each, by a task with such priors."""
    of_slices = tuple(str(ds.SOPInstanceUID) for ds in sources)
    scan = replace(_scan(), sop_instance_uids=of_slices)
    host = LocalContext({"series": scan})
    plugin.run(host, BoneSurfaceParams(views=1, max_triangles=1000))
    return encode(run_on([*sources, *priors]), host.emitted, FORMS)


_DENSE = Segment(1, "Bone", Code("91723000", "SCT", "Anatomical Structure"), Code("272673000", "SCT", "Bone"))


def labels(sources: list[Dataset]) -> LabelMap:
    """What is dense in the volume of a phantom with such headers."""
    scan = replace(_scan(), sop_instance_uids=tuple(str(ds.SOPInstanceUID) for ds in sources))
    return LabelMap(scan, (scan.data > 300).astype(np.uint8), (_DENSE,))


def _scan() -> Volume:
    """A few slices through jaw and spine: small objects, of which every kind can be made."""
    scan = ct_phantom.volume(ct_phantom.Phantom(0.7), 40, 1.68, "upright")
    some = slice(8, 17)
    return replace(
        scan, data=scan.data[some], positions=scan.positions[some], sop_instance_uids=scan.sop_instance_uids[some]
    )


def mammogram_results(**wrong: str | None) -> tuple[list[Dataset], list[Dataset]]:
    """Headers of two mammograms, and every kind of result of findings: one cluster on the first, none on the second.

    wrong: attributes that the images say otherwise; None where they are there and empty.
    """
    phantoms = [
        mammogram_phantom.phantom(31, size_mm=(60.0, 40.0), clusters=1, singles=0, view=view) for view in ("MLO", "CC")
    ]
    sources = [mammogram_phantom.to_dataset(each, study="checks", number=n) for n, each in enumerate(phantoms, 1)]
    for ds in sources:
        for keyword, value in wrong.items():
            setattr(ds, keyword, value)
    places = [np.array([[180.5, 210.5]]), np.array([[188.5, 214.5]]), np.array([[183.5, 222.5]])]
    outline = np.array([[170.0, 200.0], [200.0, 200.0], [200.0, 235.0], [170.0, 235.0], [170.0, 200.0]])
    count = Measurement(Code("111038", "DCM", "Number of calcifications"), 3, NO_UNIT)
    marks = [Mark("CL1", microcalcification.CLUSTER, "polygon", outline, 0.9, measurements=(count,))]
    for number, place in enumerate(places, 1):
        marks.append(Mark(f"MC{number}", microcalcification.CALCIFICATION, "point", place, 0.8, "CL1"))
    emitted = []
    for ds, found in zip(sources, (tuple(marks), ()), strict=True):
        image = Image(_pixels(ds), (0.1, 0.1), False, str(ds.SOPInstanceUID))
        words = "1 cluster, 3 calcifications" if found else "No calcification clusters found"
        emitted.append(("marked", ImageFindings(image, found, words, (0.1, 0.1))))
    sources = [header(ds) for ds in sources]
    sources += prior(sources)
    return sources, encode(run_on(sources), emitted)


def _pixels(ds: Dataset) -> np.ndarray:
    return np.frombuffer(ds.PixelData, np.uint16).reshape(ds.Rows, ds.Columns)


def run_on(sources: list[Dataset]) -> RunInfo:
    """A run on these inputs."""
    return RunInfo(
        task_key="checked results",
        workitem_uid="1.2.3",
        plugin_id=plugin.manifest.id,
        plugin_version=plugin.manifest.version,
        plugin_title=plugin.manifest.title,
        params={"threshold": 0.3},
        backend="numpy",
        when=datetime(2026, 1, 3, 9, 30, tzinfo=UTC),
        sources=tuple(sources),
        digests={str(ds.SOPInstanceUID): f"{number:064x}" for number, ds in enumerate(sources)},
        package="m3dicom 0 sha256:" + 64 * "0",
    )
