"""From a mammogram to marked picture and report: the plug-in on phantoms, its objects read back and validated."""

from __future__ import annotations

import copy
import dataclasses
import io
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import result_objects
import scipy.ndimage
from highdicom.sr import MeasurementReport, srread
from pydicom import Dataset, dcmread
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import (
    Comprehensive3DSRStorage,
    DigitalMammographyXRayImageStorageForProcessing,
    MammographyCADSRStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from analysis.api import Code, Emitted, Image, ImageFindings, Mark, NotAnalysable
from analysis.evaluation import mammogram_phantom
from analysis.plugins import microcalcification
from analysis.plugins.microcalcification import MicrocalcificationParams, plugin
from analysis.results import checks, findings_report, mammography_cad_sr, marked_picture, provenance, secondary_capture
from analysis.results.checks import attributes
from analysis.results.drawing import Canvas
from analysis.results.encode import encode
from analysis.results.marked_picture import Picture
from analysis.results.provenance import RunInfo

SIZE = (130.0, 75.0)


@dataclass
class Host:
    """What a plug-in needs of its host, kept in a list."""

    inputs: Mapping[str, Any]
    xp: Any = np
    nd: Any = scipy.ndimage
    backend: str = "numpy"
    emitted: list[tuple[str, Emitted]] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def progress(self, fraction: float, message: str = "") -> None:
        self.steps.append(fraction)

    def emit(self, output: str, value: Emitted) -> None:
        self.emitted.append((output, value))


@dataclass
class Outcome:
    """Phantoms, their data sets, what was found in them, and the results."""

    phantoms: list[mammogram_phantom.Phantom]
    sources: list[Dataset]
    host: Host
    run: RunInfo
    results: list[Dataset]

    @property
    def findings(self) -> list[ImageFindings]:
        return [value for _, value in self.host.emitted if isinstance(value, ImageFindings)]

    @property
    def report(self) -> Dataset:
        return next(ds for ds in self.results if ds.Modality == "SR")


def conclusion(report: Dataset) -> str:
    """The words of the report's qualitative evaluation."""
    return " ".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")


def image(ds: Dataset, **changes: Any) -> Image:
    """An Image as the host makes it of a data set."""
    options: dict[str, Any] = {
        "data": ds.pixel_array,
        "spacing": tuple(float(mm) for mm in ds.ImagerPixelSpacing),
        "inverted": ds.PhotometricInterpretation == "MONOCHROME1",
        "sop_instance_uid": str(ds.SOPInstanceUID),
        "attributes": ds.to_json_dict(bulk_data_threshold=1024, bulk_data_element_handler=lambda _: "") | {},
    }
    return Image(**(options | changes))


def dataset(made: mammogram_phantom.Phantom, number: int, **attributes: Any) -> Dataset:
    ds = mammogram_phantom.to_dataset(made, study="results", number=number, **attributes)
    ds.file_meta = dcmread(io.BytesIO(_file(ds))).file_meta
    return ds


def _file(ds: Dataset) -> bytes:
    from pydicom.dataset import FileMetaDataset

    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    return provenance.part10(ds)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """Two views: one with a strong cluster (MONOCHROME1, right MLO), one without any."""
    phantoms = [
        mammogram_phantom.phantom(
            21, size_mm=SIZE, laterality="R", view="MLO", clusters=2, contrast=(16, 18), singles=0,
            acquisition=mammogram_phantom.Acquisition(inverted=True),
        ),
        mammogram_phantom.phantom(22, size_mm=SIZE, clusters=0, singles=0),
    ]  # fmt: skip
    sources = [dataset(made, number) for number, made in enumerate(phantoms, 1)]
    host = Host({"images": tuple(image(ds) for ds in sources)})
    params = MicrocalcificationParams()
    plugin.run(host, params)
    run = RunInfo(
        task_key="test",
        workitem_uid="2.25.1",
        plugin_id=plugin.manifest.id,
        plugin_version=plugin.manifest.version,
        plugin_title=plugin.manifest.title,
        params=provenance.params_dict(params),
        backend="numpy",
        when=datetime(2026, 1, 2, 12, 0, tzinfo=UTC),
        sources=tuple(sources),
    )
    return Outcome(phantoms, sources, host, run, encode(run, host.emitted))


def test_the_clusters_are_found_and_nothing_else(outcome: Outcome) -> None:
    with_clusters, without = outcome.findings
    marks = [mark for mark in with_clusters.marks if mark.parent is None]
    truth = outcome.phantoms[0].truth
    assert len(marks) == len(truth.clusters) == 2
    for cluster in truth.clusters:
        centres = np.array([mark.points[:-1].mean(axis=0) for mark in marks])
        distance = np.hypot(centres[:, 0] - 0.5 - cluster.column, centres[:, 1] - 0.5 - cluster.row) * 0.1
        assert distance.min() < cluster.radius + 1
    grains = np.array([(c.column, c.row) for c in truth.calcifications]) + 0.5
    points = np.concatenate([mark.points for mark in with_clusters.marks if mark.shape == "point"])
    nearest = np.hypot(*(points[:, None] - grains[None]).transpose(2, 0, 1)).min(axis=1) * 0.1
    assert (nearest < 0.45).mean() > 0.75
    assert without.marks == ()
    assert without.summary == "No calcification clusters found"
    assert outcome.host.steps == sorted(outcome.host.steps)


def test_ids_follow_the_score_and_members_name_their_cluster(outcome: Outcome) -> None:
    marks = outcome.findings[0].marks
    clusters = [mark for mark in marks if mark.parent is None]
    assert [mark.identifier for mark in clusters] == [f"CL{n}" for n in range(1, len(clusters) + 1)]
    assert [mark.score for mark in clusters] == sorted((mark.score for mark in clusters), reverse=True)
    members = [mark for mark in marks if mark.parent is not None]
    assert [mark.identifier for mark in members] == [f"MC{n}" for n in range(1, len(members) + 1)]
    for cluster in clusters:
        assert cluster.measurements[0].value == sum(mark.parent == cluster.identifier for mark in members) >= 3


def test_the_same_run_gives_the_same_bytes(outcome: Outcome) -> None:
    again = encode(outcome.run, outcome.host.emitted)
    assert [provenance.part10(ds) for ds in again] == [provenance.part10(ds) for ds in outcome.results]


def test_the_picture_shows_marks_and_leaves_the_rest(outcome: Outcome) -> None:
    captures = [ds for ds in outcome.results if ds.SOPClassUID == SecondaryCaptureImageStorage]
    assert len(captures) == 2
    marked, plain = captures
    source = outcome.sources[0]
    assert (marked.Rows, marked.Columns) == (source.Rows, source.Columns)
    assert marked.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (marked.BurnedInAnnotation, marked.PhotometricInterpretation) == ("YES", "RGB")
    pixels = dcmread(io.BytesIO(provenance.part10(marked))).pixel_array.astype(int)
    coloured = pixels.max(axis=2) - pixels.min(axis=2) > 40
    assert coloured.any()
    tissue = outcome.phantoms[0].mask
    assert (coloured & tissue).sum() < 0.05 * tissue.sum()
    # Away from all marks tissue is as it was, dense bright although the source is MONOCHROME1.
    grey = secondary_capture.displayed(source.pixel_array, source)
    same = (pixels == grey[:, :, None]).all(axis=2)
    assert (same & tissue).sum() > 0.9 * tissue.sum()
    assert grey[tissue].mean() > grey[~tissue].mean() + 30
    # No calcification is painted over.
    for mark in outcome.findings[0].marks:
        if mark.shape == "point":
            column, row = np.floor(mark.points[0]).astype(int)
            assert same[row, column]
    other = dcmread(io.BytesIO(provenance.part10(plain))).pixel_array.astype(int)
    assert (other.max(axis=2) == other.min(axis=2)).all()
    assert str(outcome.sources[0].PatientName) not in str(marked.DerivationDescription)


def test_frames_to_leaf_through(outcome: Outcome) -> None:
    """Without marks, with them, and each cluster enlarged: what the frames are stands in the Frame Label Vector."""
    [ds] = [ds for ds in outcome.results if ds.SOPClassUID == MultiFrameTrueColorSecondaryCaptureImageStorage]
    labels = ["R MLO plain", "R MLO marked", "R MLO CL1-CL2"]  # nothing is marked on the other image
    assert list(ds.FrameLabelVector) == labels
    frames = dict(zip(labels, dcmread(io.BytesIO(provenance.part10(ds))).pixel_array.astype(int), strict=True))
    [capture, _] = [ds for ds in outcome.results if ds.SOPClassUID == SecondaryCaptureImageStorage]
    marked = np.frombuffer(capture.PixelData, np.uint8).reshape(capture.Rows, capture.Columns, 3)
    np.testing.assert_array_equal(frames["R MLO marked"], marked)
    tissue = outcome.phantoms[0].mask
    grey = secondary_capture.displayed(outcome.sources[0].pixel_array, outcome.sources[0])
    np.testing.assert_array_equal(frames["R MLO plain"][tissue], np.repeat(grey[tissue][:, None], 3, axis=1))
    assert (frames["R MLO marked"] != frames["R MLO plain"])[tissue].any()
    references = [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence]
    assert references == [outcome.sources[0].SOPInstanceUID]
    assert ds.ImageLaterality == "R"


def test_every_id_is_drawn_and_none_over_another(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the pages of enlarged clusters, and crowded as they may be; captions say which ids a cluster holds."""
    drawn: list[tuple[str, tuple[int, int, int, int]]] = []
    words = Canvas.words

    def heard(canvas: Canvas, box: tuple[int, int, int, int], text: str, *more: Any) -> None:
        drawn.append((text, box))
        words(canvas, box, text, *more)

    monkeypatch.setattr(Canvas, "words", heard)
    findings, source = outcome.findings[0], outcome.sources[0]
    grey = secondary_capture.displayed(findings.image.data, source)
    members = [mark for mark in findings.marks if mark.parent == "CL1"]
    near = [dataclasses.replace(m, points=members[0].points + np.array([n % 5, n // 5])) for n, m in enumerate(members)]
    crowded = dataclasses.replace(findings, marks=(findings.marks[0], *near))
    for each in (findings, crowded):
        drawn.clear()
        marked_picture.details(Picture(outcome.run, each, source, grey), grey.shape)
        ids = [(text, box) for text, box in drawn if text.startswith("MC")]
        assert [text for text, _ in ids] == [mark.identifier for mark in each.marks if mark.parent is not None]
        for number, (_, one) in enumerate(ids):
            for _, other in ids[:number]:
                assert min(one[2], other[2]) <= max(one[0], other[0]) or min(one[3], other[3]) <= max(one[1], other[1])
    drawn.clear()
    marked_picture.paint(Picture(outcome.run, findings, source, grey))
    told = " ".join(text for text, _ in drawn)
    for cluster in findings.marks:
        held = [mark.identifier for mark in findings.marks if mark.parent == cluster.identifier]
        assert not held or f"{held[0]} to {held[-1]}" in told or all(each in told.split() for each in held)
    assert "Threshold 0.3, 0.16 FP/image" in told
    assert "synthetic" in told


def test_the_threshold_says_what_it_costs() -> None:
    point = microcalcification.operating_point(MicrocalcificationParams(threshold=0.34))
    assert (point.threshold, point.false_per_image) == (0.34, microcalcification.FALSE_PER_IMAGE[6])
    assert microcalcification.operating_point(MicrocalcificationParams(threshold=1)).false_per_image == 0.025
    # Of other clusters than the measured ones nothing is promised.
    assert microcalcification.operating_point(MicrocalcificationParams(link_mm=9)).false_per_image is None


def test_the_report_carries_every_mark_and_says_when_there_is_none(outcome: Outcome) -> None:
    report = srread(io.BytesIO(provenance.part10(outcome.report)))
    content = report.content
    assert isinstance(content, MeasurementReport)
    groups = content.get_planar_roi_measurement_groups()
    marks = [mark for findings in outcome.findings for mark in findings.marks]
    assert [group.tracking_identifier for group in groups] == [mark.identifier for mark in marks]
    assert len({group.tracking_uid for group in groups}) == len(marks)
    for group, mark in zip(groups, marks, strict=True):
        points = np.asarray(group.roi.value)
        expected = np.clip(mark.points, 0, outcome.findings[0].image.data.shape[::-1])
        np.testing.assert_allclose(points.reshape(-1, 2), expected, atol=1e-3)
        certainty = next(m for m in group.get_measurements() if m.name.value == "111012")
        assert certainty.value == pytest.approx(100 * mark.score, abs=0.06)
    whole = content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in whole] == ["Image 1", "Image 2"]
    outcomes = [group.get_qualitative_evaluations()[0].value.value for group in whole]
    assert outcomes == [findings_report.WITH_FINDINGS.value, findings_report.WITHOUT_FINDINGS.value]
    assert "No calcification clusters found" in conclusion(outcome.report)


def test_a_report_without_any_finding_is_still_a_report(outcome: Outcome) -> None:
    results = encode(outcome.run, outcome.host.emitted[1:])
    assert [ds.Modality for ds in results] == ["MG", "SR", "SR"]  # nothing to point at: no PR, no KO
    assert "No findings on 1 image." in conclusion(results[1])
    cad = results[2]
    assert cad.SOPClassUID == MammographyCADSRStorage
    summary = next(item for item in cad.ContentSequence if named(item) == "CAD Processing and Findings Summary")
    assert summary.ConceptCodeSequence[0].CodeValue == "111241"  # all algorithms succeeded; without findings
    assert "ContentSequence" not in summary


def test_what_was_not_analysed_is_never_without_findings(outcome: Outcome) -> None:
    """PS3.16 CID 6047 and TID 4015: of two images one, and of two none."""
    with_clusters, other = outcome.findings
    failed = dataclasses.replace(other, analysed=False, summary="No breast found, not analysed")
    for findings, found, success, listed in (
        ([with_clusters, failed], "111244", "111223", [["Successful Detections", 1], ["Failed Detections", 2]]),
        (
            [dataclasses.replace(failed, image=with_clusters.image), failed],
            "111245",
            "111224",
            [["Failed Detections", 1, 2]],
        ),
    ):
        cad = mammography_cad_sr.encode(outcome.run, findings)
        values = {named(item): item for item in cad.ContentSequence}
        assert values["CAD Processing and Findings Summary"].ConceptCodeSequence[0].CodeValue == found
        detections = values["Summary of Detections"]
        assert detections.ConceptCodeSequence[0].CodeValue == success
        told = []
        for kind in detections.ContentSequence:
            items = [i for i in kind.ContentSequence[0].ContentSequence if "ReferencedContentItemIdentifier" in i]
            told.append([named(kind), *(item.ReferencedContentItemIdentifier[-1] for item in items)])
        assert told == listed
        assert checks.read(provenance.part10(cad), attributes.Inherited(outcome.sources), {})[1] == []
        report = findings_report.report(outcome.run, findings, [])
        assert "Not analysed" in conclusion(report)
        assert "No findings" not in conclusion(report)


def named(item: Dataset) -> str:
    """What a content item is about."""
    return str(item.ConceptNameCodeSequence[0].CodeMeaning) if "ConceptNameCodeSequence" in item else ""


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every content item below one."""
    for child in item.get("ContentSequence", ()):
        yield child
        yield from walk(child)


def at(document: Dataset, where: Sequence[int]) -> Dataset:
    """The content item at a position that counts from 1 at the root (PS3.3 C.17.3.2.5)."""
    assert where[0] == 1
    for step in where[1:]:
        document = document.ContentSequence[step - 1]
    return document


def cad_marks(cad: Dataset) -> set[tuple[str, str, tuple[float, ...]]]:
    """Id, image and centre of every finding of a Mammography CAD SR."""
    marks = set()
    for item in walk(cad):
        if named(item) == "Single Image Finding":
            parts = {named(child): child for child in item.ContentSequence}
            centre = parts["Center"]
            image_item = at(cad, centre.ContentSequence[0].ReferencedContentItemIdentifier)
            uid = image_item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
            identifier = str(parts["Tracking Identifier"].TextValue)
            marks.add((identifier, str(uid), tuple(round(float(each), 2) for each in centre.GraphicData)))
    return marks


def test_the_cad_report_holds_the_same_marks(outcome: Outcome) -> None:
    """Every mark of the plug-in, on its own image, at its own place; references resolve within the document."""
    [cad] = [ds for ds in outcome.results if ds.SOPClassUID == MammographyCADSRStorage]
    expected = set()
    for each in outcome.findings:
        for mark in each.marks:
            places = [m.points for m in each.marks if m.parent == mark.identifier] or [mark.points]
            centre = tuple(round(float(value), 2) for value in np.concatenate(places).mean(axis=0))
            expected.add((mark.identifier, each.image.sop_instance_uid, centre))
    marks = cad_marks(cad)
    assert {mark[:2] for mark in marks} == {mark[:2] for mark in expected}
    assert marks == expected
    library = next(item for item in cad.ContentSequence if named(item) == "Image Library")
    uids = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in library.ContentSequence]
    assert uids == [ds.SOPInstanceUID for ds in outcome.sources]
    sides = [named_value(item, "Image Laterality") for item in library.ContentSequence]
    assert sides == ["Right breast", "Left breast"]
    views = [named_value(item, "Image View") for item in library.ContentSequence]
    assert views == ["medio-lateral oblique", "cranio-caudal"]


def test_a_calcification_by_itself_is_no_cluster(outcome: Outcome) -> None:
    """It is a finding of its own that may be shown, also where a circle says how large it is."""
    findings = outcome.findings[0]
    rows, columns = findings.image.data.shape
    ring = np.array([[columns - 4.0, rows / 2], [columns + 6.0, rows / 2]])
    alone = Mark("MC99", microcalcification.CALCIFICATION, "circle", ring, 0.6)
    members = {each.identifier: each for each in findings.marks if each.parent is not None}
    some = next(iter(members.values()))
    circle = dataclasses.replace(some, shape="circle", points=np.concatenate([some.points, some.points + 3.0]))
    marks = [circle if each is some else each for each in findings.marks]
    results = encode(outcome.run, [("marked", dataclasses.replace(findings, marks=(*marks, alone)))])
    assert checks.examine([provenance.part10(ds) for ds in results], outcome.sources) == []
    [cad] = [ds for ds in results if ds.SOPClassUID == MammographyCADSRStorage]
    impressions = [item for item in walk(cad) if named(item) == "Individual Impression/Recommendation"]
    assert [named_value(item, "Rendering Intent")[:21] for item in impressions] == [
        "Presentation Required",
        "Presentation Optional",
    ]
    [found] = [item for item in impressions[1].ContentSequence if named(item) == "Single Image Finding"]
    assert found.ConceptCodeSequence[0].CodeMeaning == "Individual Calcification"
    assert ("MC99", outcome.sources[0].SOPInstanceUID, tuple(ring[0])) in cad_marks(cad)
    [report] = [ds for ds in results if ds.Modality == "SR" and ds is not cad]
    assert identities(report) == identities(cad)
    [circles] = [
        [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
        for group in walk(report)
        if any(str(item.get("TextValue")) == "MC99" for item in group.get("ContentSequence", ()))
    ]
    assert list(circles[0].GraphicData) == [*ring[0], columns - 14.0, rows / 2]  # 10 pixels to the other side


def test_a_cluster_of_which_the_calcifications_are_not_told_has_no_cad_report(outcome: Outcome) -> None:
    findings = outcome.findings[0]
    clusters = tuple(each for each in findings.marks if each.parent is None)
    assert not mammography_cad_sr.possible(outcome.run, [dataclasses.replace(findings, marks=clusters)])


def test_frames_of_one_instance_have_marks_of_their_own(outcome: Outcome) -> None:
    source = copy.deepcopy(outcome.sources[1])
    source.NumberOfFrames = 2
    run = dataclasses.replace(outcome.run, sources=(source,))
    finding = Code("4147007", "SCT", "Mass")
    emitted = []
    for frame in (1, 2):
        picture = dataclasses.replace(outcome.findings[1].image, frame_number=frame)
        mark = Mark("1", finding, "point", np.array([[40.0, 50.0]]), 0.7)
        emitted.append(("marked", ImageFindings(picture, (mark,), "1 mass", (0.1, 0.1))))
    results = encode(run, emitted)
    assert checks.examine([provenance.part10(ds) for ds in results], run.sources) == []


def test_a_colour_image_has_no_grayscale_presentation_state(outcome: Outcome) -> None:
    """A digitised film saved as RGB: PS3.4 N.2; the rest of its results are there."""
    source = copy.deepcopy(outcome.sources[0])
    source.SamplesPerPixel, source.PhotometricInterpretation = 3, "RGB"
    run = dataclasses.replace(outcome.run, sources=(source,))
    assert [ds.Modality for ds in encode(run, outcome.host.emitted[:1])] == ["MG", "SR", "SR", "MG", "KO"]


@pytest.mark.parametrize(("told", "side"), [("", None), ("U", "U"), ("L", "L")])
def test_pictures_say_which_side_they_show_or_that_nobody_knows(outcome: Outcome, told: str, side: str | None) -> None:
    """PS3.3 C.7.3.1: Laterality is Type 2C. "U" is an unpaired part, which no image that is silent tells."""
    source = copy.deepcopy(outcome.sources[0])
    source.Modality, source.ImageLaterality = "DX", told
    run = dataclasses.replace(outcome.run, sources=(source,))
    for ds in encode(run, outcome.host.emitted[:1]):
        if ds.Modality == "DX":
            assert (ds.get("ImageLaterality"), "Laterality" in ds) == (side, side is None)
        if ds.Modality == "PR":
            assert ds.Laterality == (side if side == "L" else None)


def named_value(item: Dataset, name: str) -> str:
    """The coded value of a child of that name."""
    [child] = [child for child in item.ContentSequence if named(child) == name]
    return str(child.ConceptCodeSequence[0].CodeMeaning)


def test_marks_have_one_identity_in_every_object(outcome: Outcome) -> None:
    [cad] = [ds for ds in outcome.results if ds.SOPClassUID == MammographyCADSRStorage]
    assert identities(cad) == identities(outcome.report) != set()


def identities(ds: Dataset) -> set[tuple[str, str]]:
    """Tracking Identifier and UID of every mark of a report."""
    texts = [str(i.TextValue) for i in walk(ds) if named(i) == "Tracking Identifier"]
    uids = [str(i.UID) for i in walk(ds) if named(i) == "Tracking Unique Identifier"]
    return {pair for pair in zip(texts, uids, strict=True) if not pair[0].startswith("Image")}


@pytest.mark.parametrize("missing", [{"ImageLaterality": None}, {"ViewPosition": None}, {"Modality": "DX"}])
def test_without_side_or_view_there_is_no_cad_report(outcome: Outcome, missing: dict[str, Any]) -> None:
    """TID 4020 requires both of every image; nothing is made up."""
    source = copy.deepcopy(outcome.sources[0])
    source.ViewCodeSequence = []
    for keyword, value in missing.items():
        setattr(source, keyword, value)
    run = dataclasses.replace(outcome.run, sources=(source, outcome.sources[1]))
    assert mammography_cad_sr.possible(outcome.run, outcome.findings)
    assert not mammography_cad_sr.possible(run, outcome.findings)


def test_views_are_those_of_the_standard() -> None:
    """PS3.16 CID 4014 as pydicom has it."""
    known = {
        code
        for scheme, names in cid_concepts[4014].items()
        for name in names
        for code in concepts[scheme][name]
        if scheme == "SCT"
    }
    assert {code.value for code in mammography_cad_sr.VIEWS.values()} <= known


def test_the_presentation_state_draws_the_marks_over_the_image(outcome: Outcome) -> None:
    [state] = [ds for ds in outcome.results if ds.Modality == "PR"]  # only one image has marks
    findings, source = outcome.findings[0], outcome.sources[0]
    assert (
        state.ReferencedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    )
    annotation, ids = state.GraphicAnnotationSequence
    shapes = [
        (shape.GraphicType, np.array(shape.GraphicData).reshape(-1, 2)) for shape in annotation.GraphicObjectSequence
    ]
    assert len(shapes) == len(findings.marks)
    for (kind, points), mark in zip(shapes, findings.marks, strict=True):
        if mark.parent is None:
            assert kind == "POLYLINE"
            np.testing.assert_allclose(points, mark.points, atol=1e-3)
        else:
            assert kind == "CIRCLE"
            np.testing.assert_allclose(points[0], mark.points[0], atol=1e-3)
            assert np.hypot(*(points[1] - points[0])) * findings.spacing[0] == pytest.approx(0.55, rel=1e-3)
    texts = [text.UnformattedTextValue for text in annotation.TextObjectSequence]
    assert [text.split()[0] for text in texts] == [mark.identifier for mark in findings.marks if mark.parent is None]
    # Every calcification has its id, too, in a layer of its own: a box beside the cluster and a line to its place.
    members = [mark for mark in findings.marks if mark.parent is not None]
    assert [text.UnformattedTextValue for text in ids.TextObjectSequence] == [mark.identifier for mark in members]
    boxes = []
    for text, mark in zip(ids.TextObjectSequence, members, strict=True):
        np.testing.assert_allclose(text.AnchorPoint, mark.points[0], atol=1e-3)
        assert text.AnchorPointVisibility == "Y"
        boxes.append((*text.BoundingBoxTopLeftHandCorner, *text.BoundingBoxBottomRightHandCorner))
        [parent] = [each for each in findings.marks if each.identifier == mark.parent]
        assert boxes[-1][0] > parent.points[:, 0].max() or boxes[-1][2] < parent.points[:, 0].min()
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            apart = min(one[2], other[2]) - max(one[0], other[0]) < 0.1
            assert apart or min(one[3], other[3]) - max(one[1], other[1]) < 0.1
    assert [layer.GraphicLayer for layer in state.GraphicLayerSequence] == [annotation.GraphicLayer, ids.GraphicLayer]
    tracked = {
        (each.TrackingID, each.TrackingUID)
        for item in (annotation, ids)
        for each in (*item.get("GraphicObjectSequence", ()), *item.TextObjectSequence)
    }
    assert tracked == identities(outcome.report)
    assert state.Laterality == "R"
    assert state.PresentationLUTShape == "INVERSE"  # the phantom is MONOCHROME1


def test_dcmtk_shows_the_image_through_the_presentation_state(outcome: Outcome, tmp_path: Path) -> None:
    """DCMTK's own renderer gives the grey levels that the marked picture starts from."""
    assert shutil.which("dcmp2pgm"), "dcmp2pgm is missing: install dcmtk"
    [state] = [ds for ds in outcome.results if ds.Modality == "PR"]
    (tmp_path / "pr.dcm").write_bytes(provenance.part10(state))
    (tmp_path / "mg.dcm").write_bytes(_file(outcome.sources[0]))
    command = ["dcmp2pgm", "--pstate", tmp_path / "pr.dcm", tmp_path / "mg.dcm", tmp_path / "out.pgm"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    shown = np.asarray(PIL.Image.open(tmp_path / "out.pgm"), np.int16)
    ours = secondary_capture.displayed(outcome.findings[0].image.data, outcome.sources[0]).astype(np.int16)
    assert shown.shape == ours.shape
    assert np.abs(shown - ours).max() <= 1


def test_the_key_object_names_the_images_with_findings(outcome: Outcome) -> None:
    [key] = [ds for ds in outcome.results if ds.Modality == "KO"]
    images = [item for item in key.ContentSequence if item.ValueType == "IMAGE"]
    named_uids = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images]
    captures = [ds.SOPInstanceUID for ds in outcome.results if "PixelData" in ds]
    assert named_uids == [outcome.sources[0].SOPInstanceUID, *captures]
    others = [item for item in key.ContentSequence if item.ValueType == "COMPOSITE"]
    assert {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in others} == {
        ds.SOPInstanceUID for ds in outcome.results if ds.Modality in ("SR", "PR")
    }
    assert not any("ConceptNameCodeSequence" in item for item in images)  # TID 2010
    text = next(item.TextValue for item in key.ContentSequence if named(item) == "Key Object Description")
    assert "2 clusters" in text


def test_every_result_names_the_others(outcome: Outcome) -> None:
    """Related Series, evidence in reports, items of a Key Object."""
    for ds in outcome.results:
        others = {str(o.SeriesInstanceUID) for o in outcome.results} - {str(ds.SeriesInstanceUID)}
        text = {str(e.value) for e in ds.iterall() if e.keyword == "SeriesInstanceUID"}
        assert others <= text, ds.Modality


def test_large_and_wordless_images_are_drawn_too(outcome: Outcome) -> None:
    findings = outcome.findings[0]
    grey = secondary_capture.displayed(findings.image.data, outcome.sources[0])
    # A breast that fills the picture leaves no air for words; nothing may fail.
    full = np.full_like(grey, 180)
    picture = Picture(outcome.run, findings, outcome.sources[0], full)
    assert marked_picture.paint(picture).shape == (*grey.shape, 3)
    assert secondary_capture.reduced(grey, 3).shape == (grey.shape[0] // 3, grey.shape[1] // 3)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": 1000, "WindowWidth": 1000}, [0, 0, 128, 255]),
        ({"VOILUTFunction": "SIGMOID", "WindowCenter": 1000, "WindowWidth": 1000}, [5, 30, 128, 250]),
        ({"WindowCenter": [1000, 3], "WindowWidth": [1001, 4]}, [0, 0, 128, 255]),
        ({"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1000, "WindowWidth": 1001}, [255, 255, 127, 0]),
    ],
)
def test_display_follows_the_window(attributes: dict[str, Any], expected: list[int]) -> None:
    ds = Dataset()
    ds.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    shown = secondary_capture.displayed(np.array([[0, 500, 1000, 2000]], np.uint16), ds)
    np.testing.assert_allclose(shown[0], expected, atol=2)


def test_what_cannot_be_analysed_is_refused_in_words(outcome: Outcome) -> None:
    ds = outcome.sources[0]
    with pytest.raises(NotAnalysable, match="pixel_spacing_mm"):
        plugin.run(Host({"images": (image(ds, spacing=None),)}), MicrocalcificationParams())
    with pytest.raises(NotAnalysable, match="not square"):
        plugin.run(Host({"images": (image(ds, spacing=(0.1, 0.2)),)}), MicrocalcificationParams())
    with pytest.raises(NotAnalysable, match=r"0\.5"):
        plugin.run(Host({"images": (image(ds, spacing=(0.5, 0.5)),)}), MicrocalcificationParams())
    with pytest.raises(NotAnalysable, match="tomosynthesis"):
        plugin.run(Host({"images": (image(ds, frame_number=1),)}), MicrocalcificationParams())
    empty = Host({"images": (image(ds, data=np.zeros((900, 700), np.uint16)),)})
    plugin.run(empty, MicrocalcificationParams())
    [(_, value)] = empty.emitted
    assert isinstance(value, ImageFindings)
    assert "No breast found" in value.summary


def test_of_a_pair_for_presentation_is_taken_and_films_need_a_pixel_size(outcome: Outcome) -> None:
    shown = image(outcome.sources[1])
    raw = image(dataset(outcome.phantoms[1], 2, SOPClassUID=DigitalMammographyXRayImageStorageForProcessing))
    assert microcalcification.usable([raw, shown]) == [shown]
    assert microcalcification.usable([raw]) == [raw]
    film = image(outcome.sources[1], spacing=None, attributes={})
    assert microcalcification.pixel_spacing(film, MicrocalcificationParams(pixel_spacing_mm=0.1)) == 0.1


def test_independent_validators_find_no_error(outcome: Outcome, tmp_path: Path) -> None:
    assert shutil.which("dciodvfy"), "dciodvfy is missing: install dicom3tools"
    for number, ds in enumerate([*outcome.sources, *outcome.results]):
        raw = provenance.part10(ds) if "file_meta" in ds.__dict__ else _file(ds)
        (tmp_path / f"{ds.Modality}{number}.dcm").write_bytes(raw)
    script = Path(__file__).resolve().parents[1] / "validate_results.sh"
    found = subprocess.run(["bash", script, "--strict", tmp_path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_report_of_one_mark_on_two_images_is_valid(tmp_path: Path) -> None:
    """PixelMed takes the groups of the images for regions then: the line is named among those that are ignored."""
    sources, _ = result_objects.mammogram_results()
    mark = Mark("F1", microcalcification.CALCIFICATION, "point", np.array([[180.5, 210.5]]), 0.8)
    emitted = []
    for ds, marks in zip(sources[:2], ((mark,), ()), strict=True):
        picture = Image(np.zeros((600, 400)), (0.1, 0.1), False, str(ds.SOPInstanceUID))
        emitted.append((f"of {ds.InstanceNumber}", ImageFindings(picture, marks, "words", (0.1, 0.1))))
    results = encode(result_objects.run_on(sources[:2]), emitted)
    [report] = [ds for ds in results if ds.SOPClassUID == Comprehensive3DSRStorage]
    (tmp_path / "report.dcm").write_bytes(provenance.part10(report))
    script = Path(__file__).resolve().parents[1] / "validate_results.sh"
    found = subprocess.run(
        ["bash", script, "--strict", "--skip-set", tmp_path], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_what_the_sources_do_not_say_is_empty_and_valid(tmp_path: Path) -> None:
    """Who the patient is, and when the study was: never invented. The validators' words on DICOMDIR are ignored."""
    unsaid = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
    _, results = result_objects.mammogram_results(**dict.fromkeys(unsaid))
    for number, ds in enumerate(results):
        assert [ds[keyword].value or "" for keyword in unsaid] == [""] * len(unsaid)
        (tmp_path / f"{ds.Modality}{number}.dcm").write_bytes(provenance.part10(ds))
    script = Path(__file__).resolve().parents[1] / "validate_results.sh"
    command = ["bash", script, "--strict", "--only", "[MP]*", tmp_path]  # pictures and their presentation state
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "PR 1, errors 0" in found.stdout
