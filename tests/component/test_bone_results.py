"""From a CT series to bone and teeth as DICOM objects and an X3D scene, judged by exact distances and by validators."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dicom_data
import highdicom
import numpy as np
import pytest
import result_objects
import scipy.ndimage
import trimesh
from pydicom import Dataset, dcmread
from pydicom.tag import Tag
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)
from task_plugins import DENSE

from analysis.algorithms.geometry import volume as enclosed
from analysis.api import Emitted, LabelMap, NotAnalysable, Surface, Turntable, Volume, VolumeReport
from analysis.evaluation import ct_phantom
from analysis.evaluation.surface_error import surface_error
from analysis.evaluation.x3d_check import defects, voxels_of
from analysis.plugins.bone_surface import BoneSurfaceParams, plugin
from analysis.results import checks, provenance, renditions
from analysis.results.encapsulated_stl import binary_stl, read_binary_stl
from analysis.results.encode import FORMS, encode
from analysis.results.provenance import RunInfo
from pacs.archive import Archive, open_archive
from pacs.auth import SYSTEM
from pacs.errors import NotFound, Undecodable
from pacs.settings import Settings

PHANTOM = ct_phantom.Phantom(0.7)
SIZE, SPACING = 112, 0.6
LAYOUTS: tuple[ct_phantom.Layout, ...] = ("upright", "tilted", "uneven")
SCHEMA = "x3d-4.0-nodsig.xsd"


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
    """A scan, what the plug-in made of it, and the results."""

    series: list[Dataset]
    run: RunInfo
    host: Host
    results: list[Dataset]

    def of(self, modality: str) -> list[Dataset]:
        return [ds for ds in self.results if ds.Modality == modality]

    @property
    def surfaces(self) -> list[Surface]:
        return [value for _, value in self.host.emitted if isinstance(value, Surface)]


def run_info(series: Sequence[Dataset], task_key: str = "task") -> RunInfo:
    sources = []
    for ds in series:
        header = Dataset()
        header.update({element.tag: element for element in ds if element.keyword != "PixelData"})
        sources.append(header)
    return RunInfo(
        task_key=task_key,
        workitem_uid="1.2.3",
        plugin_id=plugin.manifest.id,
        plugin_version=plugin.manifest.version,
        plugin_title=plugin.manifest.title,
        params=provenance.params_dict(BoneSurfaceParams()),
        backend="numpy",
        when=datetime(2026, 1, 3, 9, 30, tzinfo=UTC),
        sources=tuple(sources),
    )


def outcome(layout: ct_phantom.Layout) -> Outcome:
    scan = ct_phantom.volume(PHANTOM, SIZE, SPACING, layout)
    host = Host({"series": scan})
    plugin.run(host, BoneSurfaceParams())
    series = ct_phantom.ct_series(scan)
    run = run_info(series)
    return Outcome(series, run, host, encode(run, host.emitted))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {layout: outcome(layout) for layout in LAYOUTS}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    opened = open_archive(Settings(data=tmp_path / "data"))
    yield opened
    opened.close()


def store(archive: Archive, results: Sequence[Dataset]) -> None:
    for ds in results:
        receiving = archive.ingest.receive_part10()
        receiving.write(provenance.part10(ds))
        archive.ingest.store(receiving, principal=SYSTEM)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bone_and_teeth_lie_where_they_are(outcomes: dict[str, Outcome], layout: str) -> None:
    bone, teeth = outcomes[layout].surfaces
    assert (bone.segment.label, teeth.segment.label) == ("Bone", "Teeth")
    assert len(bone.faces) + len(teeth.faces) <= 120_000
    error = surface_error(bone.vertices, bone.faces, PHANTOM.bone_distance)
    assert error.mean < 0.1
    assert abs(error.bias) < 0.03
    assert error.p95 < 0.25
    assert surface_error(teeth.vertices, teeth.faces, PHANTOM.teeth_distance).mean < 0.25
    (report,) = [value for _, value in outcomes[layout].host.emitted if isinstance(value, VolumeReport)]
    measured = {m.name.meaning: m.value for m in report.groups[0].measurements}
    assert measured["Volume"] == pytest.approx(PHANTOM.bone_volume, rel=0.02)
    assert measured["Surface Area of Mesh"] == pytest.approx(PHANTOM.bone_area, rel=0.03)
    assert enclosed(bone.vertices, bone.faces) == pytest.approx(PHANTOM.bone_volume, rel=0.02)


def test_progress_is_reported_often_and_grows(outcomes: dict[str, Outcome]) -> None:
    steps = outcomes["upright"].host.steps
    assert len(steps) >= 8
    assert steps == sorted(steps)
    assert steps[-1] == 1.0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_segmentation_reads_back_as_the_labels_slice_by_slice(outcomes: dict[str, Outcome], layout: str) -> None:
    (labels,) = [value for _, value in outcomes[layout].host.emitted if isinstance(value, LabelMap)]
    (ds,) = outcomes[layout].of("SEG")
    place = {uid: k for k, uid in enumerate(labels.volume.sop_instance_uids)}
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
    pixels = ds.Rows * ds.Columns
    back = np.zeros_like(labels.labels)
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        frame = bits[number * pixels : (number + 1) * pixels].reshape(ds.Rows, ds.Columns).astype(bool)
        assert frame.any()
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        k = place[source]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(np.array(position, float), labels.volume.positions[k], atol=1e-6)
        back[k][frame] = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    np.testing.assert_array_equal(back, labels.labels)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 2), (1, 5), (3, 2), (1, 7), (3, 3), (5, 3)])
def test_frames_of_a_few_pixels_are_packed_without_gaps(rows: int, columns: int) -> None:
    """PS3.5 8.1.1; pydicom reads them."""
    series = list(dicom_data.series(5, Rows=rows, Columns=columns))
    for ds in series:
        ds.PixelData = b"\0\0" * (rows * columns)
    volume = Volume(
        np.zeros((5, rows, columns), np.int16), np.array([[0.0, 0, z] for z in range(5)]), np.array([1.0, 0, 0]),
        np.array([0.0, 1, 0]), (0.5, 0.5), tuple(ds.SOPInstanceUID for ds in series), series[0].FrameOfReferenceUID,
    )  # fmt: skip
    labels = np.repeat((np.arange(rows * columns) % 3 == 0).astype(np.uint8).reshape(1, rows, columns), 5, axis=0)
    results = encode(run_info(series), [("labels", LabelMap(volume, labels, (DENSE,)))])
    raw = provenance.part10(results[0])
    np.testing.assert_array_equal(dcmread(io.BytesIO(raw)).pixel_array.reshape(labels.shape), labels)
    assert checks.examine([raw], series) == []


def test_the_models_are_the_surfaces(outcomes: dict[str, Outcome]) -> None:
    for ds, surface in zip(outcomes["upright"].of("M3D"), outcomes["upright"].surfaces, strict=True):
        assert len(ds.EncapsulatedDocument) % 2 == 0
        corners = read_binary_stl(ds.EncapsulatedDocument)
        np.testing.assert_array_equal(corners, surface.vertices[surface.faces])
        assert ds.MeasurementUnitsCodeSequence[0].CodeValue == "mm"
        assert ds.FrameOfReferenceUID == surface.volume.frame_of_reference_uid


def test_results_name_one_another_and_their_sources(outcomes: dict[str, Outcome]) -> None:
    this = outcomes["upright"]
    (seg,), (sr,), models = this.of("SEG"), this.of("SR"), this.of("M3D")
    assert len({ds.SOPInstanceUID for ds in this.results}) == len(this.results)
    for ds in this.results:
        if ds.Modality != "SR":  # its IOD has evidence instead, looked at below
            related = {item.SeriesInstanceUID for item in ds.RelatedSeriesSequence}
            assert related == {other.SeriesInstanceUID for other in this.results} - {ds.SeriesInstanceUID}
        assert ds.StudyInstanceUID == this.series[0].StudyInstanceUID
        assert ds.PatientName == this.series[0].PatientName
    evidence = {
        reference.ReferencedSOPInstanceUID
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in sr.get(name, [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    sources = {ds.SOPInstanceUID for ds in this.series}
    assert evidence == {ds.SOPInstanceUID for ds in this.results if ds is not sr} | sources
    for ds in models:
        referenced = {
            item.ReferencedSOPInstanceUID
            for series in ds.ReferencedSeriesSequence
            for item in series.ReferencedInstanceSequence
        }
        assert referenced == sources | {seg.SOPInstanceUID}
        assert ds.TrackingUID in {segment.TrackingUID for segment in seg.SegmentSequence}


def test_the_same_run_gives_the_same_bytes(outcomes: dict[str, Outcome]) -> None:
    this = outcomes["uneven"]
    again = encode(this.run, this.host.emitted)
    assert [provenance.part10(ds) for ds in again] == [provenance.part10(ds) for ds in this.results]
    other = encode(run_info(this.series, "another task"), this.host.emitted)
    assert not {ds.SOPInstanceUID for ds in other} & {ds.SOPInstanceUID for ds in this.results}


@pytest.mark.parametrize(("name", "character_set"), [("Ångström^Åsa", "ISO_IR 100"), ("山田^太郎", "ISO_IR 192")])
def test_names_stay_what_they_are(outcomes: dict[str, Outcome], name: str, character_set: str) -> None:
    this = outcomes["uneven"]
    sources = []
    for ds in this.series:
        source = copy.deepcopy(ds)
        source.SpecificCharacterSet, source.PatientName = character_set, name
        source.OtherPatientIDs, source.AdmittingDiagnosesDescription = (
            ["A", "B"],
            "Ø" if character_set[-3] == "1" else "",
        )
        sources.append(source)
    for ds in encode(run_info(sources), this.host.emitted):
        read = dcmread(io.BytesIO(provenance.part10(ds)))
        assert read.PatientName == name
        assert read.SpecificCharacterSet == character_set
        assert list(read.OtherPatientIDs) == ["A", "B"]


def test_a_bare_source_without_optional_attributes_is_enough(outcomes: dict[str, Outcome]) -> None:
    this = outcomes["uneven"]
    bare = []
    for ds in this.series:
        source = copy.deepcopy(ds)
        for keyword in ("StudyTime", "AccessionNumber", "PatientBirthDate", "PatientSex", "ReferringPhysicianName",
                        "StudyID", "Manufacturer", "PositionReferenceIndicator", "SpecificCharacterSet"):  # fmt: skip
            delattr(source, keyword)
        bare.append(source)
    for ds in encode(run_info(bare), this.host.emitted):
        read = dcmread(io.BytesIO(provenance.part10(ds)))
        assert read.PatientID == this.series[0].PatientID
        assert "AccessionNumber" in read


def test_the_scene_holds_all_labels_and_each_model_its_own(archive: Archive, outcomes: dict[str, Outcome]) -> None:
    this = outcomes["upright"]
    store(archive, this.results)
    models = this.of("M3D")
    study, series = models[0].StudyInstanceUID, models[0].SeriesInstanceUID
    both = renditions.x3d_scene(archive, archive.retrieve.locate(SYSTEM, study, series))
    one = renditions.x3d_scene(archive, archive.retrieve.locate(SYSTEM, study, series, models[1].SOPInstanceUID))
    for scene, labels in ((both, ["Bone", "Teeth"]), (one, ["Teeth"])):
        assert defects(scene) == []
        assert re.findall(rb"name=\"SegmentLabel\" value='\"(\w+)\"'", scene) == [label.encode() for label in labels]
        conform(scene)
    for uid in (study, series, *(ds.SOPInstanceUID for ds in [*models, *this.of("SEG")])):
        assert uid.encode() in both
    assert this.of("SR")[0].SeriesInstanceUID.encode() in both
    assert b"Phantom" not in both
    assert b"PHANTOM-CT" not in both
    bone = this.surfaces[0]
    points, faces = mesh_of(both)
    assert np.abs(points.min(axis=0) - bone.vertices.min(axis=0)).max() < 0.1
    assert enclosed(points, faces) == pytest.approx(enclosed(bone.vertices, bone.faces), rel=2e-3)
    glb = renditions.gltf_scene(archive, archive.retrieve.locate(SYSTEM, study, series))
    upright = trimesh.load_scene(io.BytesIO(glb), file_type="glb")
    assert set(upright.graph.nodes_geometry) == {"Bone", "Teeth"}
    extent = np.ptp(np.concatenate([each.vertices for each in this.surfaces]), axis=0)
    np.testing.assert_allclose(upright.extents * 1000, extent[[0, 2, 1]], atol=0.2)
    assert b"Phantom" not in glb
    assert b"PHANTOM-CT" not in glb
    with pytest.raises(NotFound):
        renditions.x3d_scene(archive, archive.retrieve.locate(SYSTEM, study, this.of("SEG")[0].SeriesInstanceUID))


def test_the_volume_is_a_volume_of_x3d(archive: Archive, outcomes: dict[str, Outcome]) -> None:
    """Bone is opaque where it is in the patient, and air is not, by the schema's own places for both."""
    this = outcomes["tilted"]
    store(archive, this.results)
    volume, turntable = this.of("OT")
    located = archive.retrieve.locate(SYSTEM, volume.StudyInstanceUID, volume.SeriesInstanceUID)
    scene = renditions.x3d_scene(archive, located)
    assert b'profile="MedicalInterchange"' in scene
    assert defects(scene) == []
    conform(scene)
    assert b"Phantom" not in scene
    root = ElementTree.fromstring(scene)
    transform = root.find("Scene/Transform")
    assert transform is not None
    element = transform.find("VolumeData")
    assert element is not None
    texture = element.find("ImageTexture3D")
    assert texture is not None
    voxels = voxels_of(texture)
    size = np.array(element.get("dimensions", "").split(), float)
    centre = np.array(transform.get("translation", "").split(), float)
    z, y, x = np.indices(voxels.shape)
    share = (np.stack([x, y, z], axis=-1) + 0.5) / voxels.shape[::-1]
    places = centre + (share - 0.5) * size
    depth = PHANTOM.bone_distance(places)
    assert voxels[depth < -1.5].mean() > 100
    outside = np.hypot(places[..., 0], places[..., 1]) > 44 * PHANTOM.scale + 2
    assert voxels[outside].max(initial=0) < 5
    with pytest.raises(NotFound):
        renditions.x3d_scene(
            archive, archive.retrieve.locate(SYSTEM, turntable.StudyInstanceUID, turntable.SeriesInstanceUID)
        )
    with pytest.raises(NotFound):
        renditions.gltf_scene(archive, located)


def test_the_grey_volume_lies_where_the_scan_lies(outcomes: dict[str, Outcome]) -> None:
    """Read by pydicom: each frame in its place, values as Hounsfield units, the window around bone."""
    for layout in LAYOUTS:
        [ds] = [
            ds
            for ds in outcomes[layout].of("OT")
            if ds.SOPClassUID == MultiFrameGrayscaleByteSecondaryCaptureImageStorage
        ]
        read = dcmread(io.BytesIO(provenance.part10(ds)))
        [mapping] = read.RealWorldValueMappingSequence
        hu = read.pixel_array * float(mapping.RealWorldValueSlope) + float(mapping.RealWorldValueIntercept)
        pitch = float(read.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0])
        places = [f.PlanePositionSequence[0].ImagePositionPatient for f in read.PerFrameFunctionalGroupsSequence]
        np.testing.assert_allclose(np.diff([p[2] for p in places]), pitch, rtol=1e-4)
        first = np.array(places[0], float)
        z, y, x = np.indices(hu.shape)
        points = first + pitch * np.stack([x, y, z], axis=-1)
        inner = PHANTOM.bone_distance(points) < -1
        assert inner.sum() > 1000
        true = PHANTOM.hounsfield(points[inner])
        assert abs(float(np.median(hu[inner] - true))) < 40


def test_the_turntable_shows_the_patient_from_all_sides(outcomes: dict[str, Outcome]) -> None:
    [ds] = [
        ds for ds in outcomes["upright"].of("OT") if ds.SOPClassUID == MultiFrameTrueColorSecondaryCaptureImageStorage
    ]
    frames = dcmread(io.BytesIO(provenance.part10(ds))).pixel_array
    assert frames.shape[0] == ds.NumberOfFrames == 24
    assert (ds.FrameIncrementPointer, ds.BurnedInAnnotation) == (Tag("FrameTime"), "YES")
    middle = frames[:, frames.shape[1] // 4 : -frames.shape[1] // 5].astype(float)
    assert all(frame.std() > 20 for frame in middle)
    # Teeth stand at the front: brightest in the lower half from anterior, hidden behind the spine from posterior.
    anterior, left, posterior = frames[0], frames[6], frames[12]
    assert not np.array_equal(anterior, posterior)
    teeth = slice(int(0.55 * frames.shape[1]), int(0.68 * frames.shape[1]))
    weight = left[teeth].max(axis=2).astype(float)
    weight[weight < 150] = 0
    columns = (weight.sum(axis=0) * np.arange(weight.shape[1])).sum() / weight.sum()
    assert columns < weight.shape[1] * 0.5  # from the left, what is anterior is at the left of the picture


def test_younger_forms_read_back_as_the_same(outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    """Label Map Segmentation by highdicom from a file, Encapsulated OBJ and MTL by trimesh."""
    this = outcomes["uneven"]
    results = encode(this.run, this.host.emitted, FORMS)
    by_class = {}
    for ds in results:
        by_class.setdefault(str(ds.SOPClassUID), []).append(dcmread(io.BytesIO(provenance.part10(ds))))
    (labels,) = [value for _, value in this.host.emitted if isinstance(value, LabelMap)]
    [labelmap] = by_class["1.2.840.10008.5.1.4.1.1.66.7"]
    (tmp_path / "labelmap.dcm").write_bytes(provenance.part10(labelmap))
    segmentation = highdicom.seg.segread(tmp_path / "labelmap.dcm")
    back = segmentation.get_pixels_by_source_instance(
        list(labels.volume.sop_instance_uids), combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(back, labels.labels)
    [library] = by_class["1.2.840.10008.5.1.4.1.1.104.5"]
    models = by_class["1.2.840.10008.5.1.4.1.1.104.4"]
    (tmp_path / "materials.mtl").write_bytes(library.EncapsulatedDocument[: library.EncapsulatedDocumentLength])
    for ds, surface in zip(models, this.surfaces, strict=True):
        [reference] = ds.ReferencedInstanceSequence
        assert reference.ReferencedSOPInstanceUID == library.SOPInstanceUID
        assert reference.RelativeURIReferenceWithinEncapsulatedDocument == "materials.mtl"
        path = tmp_path / f"{surface.segment.label}.obj"
        path.write_bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])
        mesh = trimesh.load_mesh(path, process=False)
        np.testing.assert_array_equal(np.asarray(mesh.vertices, np.float32), surface.vertices)
        np.testing.assert_array_equal(mesh.faces, surface.faces)
        assert tuple(mesh.visual.material.diffuse[:3]) == surface.segment.colour
    stl = this.of("M3D")[0]
    data = stl.EncapsulatedDocument[: stl.EncapsulatedDocumentLength]
    mesh = trimesh.load_mesh(io.BytesIO(data), file_type="stl", process=False)
    assert float(mesh.volume) == pytest.approx(enclosed(this.surfaces[0].vertices, this.surfaces[0].faces), rel=1e-4)


def mesh_of(scene: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The first shape of a scene in mm, read without our own code."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(scene)
    transform = root.find("Scene/Transform")
    assert transform is not None
    shape = transform.find("Shape/IndexedTriangleSet")
    assert shape is not None
    coordinate = shape.find("Coordinate")
    assert coordinate is not None
    scale, translation = (np.array(transform.get(key, "").split(), float) for key in ("scale", "translation"))
    points = np.array(coordinate.get("point", "").split(), float).reshape(-1, 3) * scale + translation
    return points, np.array(shape.get("index", "").split(), int).reshape(-1, 3)


def conform(scene: bytes) -> None:
    """Valid by the X3D 4.0 schema, where it is at hand."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "tools" / "x3d-schema" / SCHEMA
    path = Path(os.environ.get("M3DICOM_X3D_XSD", beside))
    if not path.is_file():
        return
    from lxml import etree  # type: ignore[import-untyped]

    schema = etree.XMLSchema(etree.parse(path))
    document = etree.fromstring(scene, etree.XMLParser(no_network=True, load_dtd=False, huge_tree=True))
    assert schema.validate(document), schema.error_log


def hostile_models() -> dict[str, bytes]:
    good = binary_stl(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]], np.int32))
    nan = bytearray(good)
    nan[100:104] = np.float32("nan").tobytes()
    far = bytearray(good)
    far[100:104] = np.float32(3e38).tobytes()
    return {
        "no bytes": b"",
        "cut": good[:-20],
        "count lies": good[:80] + b"\xff\xff\xff\xff" + good[84:],
        "count too small": good[:80] + b"\0\0\0\0" + good[84:],
        "not finite": bytes(nan),
        "beyond any patient": bytes(far),
        "text": b"solid x\n facet normal 0 0 1\n" * 30,
        "no triangles": good[:80] + b"\0\0\0\0",
    }


@pytest.mark.parametrize("name", hostile_models())
def test_a_hostile_model_is_told_in_words(archive: Archive, outcomes: dict[str, Outcome], name: str) -> None:
    ds = copy.deepcopy(outcomes["upright"].of("M3D")[0])
    stl = hostile_models()[name]
    ds.EncapsulatedDocument = stl + b"\0" * (len(stl) % 2)
    store(archive, [ds])
    with pytest.raises(Undecodable):
        renditions.x3d_scene(archive, archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID))


def test_foreign_labels_cannot_break_out_of_the_scene(archive: Archive, outcomes: dict[str, Outcome]) -> None:
    ds = copy.deepcopy(outcomes["upright"].of("M3D")[1])
    ds.TrackingID = 'a\'"><Script/>\\" & \x1b b'
    ds.RecommendedDisplayCIELabValue = [1, 2]
    store(archive, [ds])
    scene = renditions.x3d_scene(archive, archive.retrieve.locate(SYSTEM, ds.StudyInstanceUID))
    assert defects(scene) == []
    assert b"<Script" not in scene
    conform(scene)


def test_too_little_bone_is_refused_in_words() -> None:
    scan = ct_phantom.volume(PHANTOM, 48, 0.6)
    soft = type(scan)(
        **{**{name: getattr(scan, name) for name in scan.__dataclass_fields__}, "data": np.minimum(scan.data, 90)}
    )
    with pytest.raises(NotAnalysable, match="dense"):
        plugin.run(Host({"series": soft}), BoneSurfaceParams())
    with pytest.raises(NotAnalysable, match="Too little bone"):
        plugin.run(Host({"series": scan}), BoneSurfaceParams(threshold_hu=2500))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_independent_validators_find_no_error(outcomes: dict[str, Outcome], layout: str, tmp_path: Path) -> None:
    this = outcomes[layout]
    for number, ds in enumerate(this.results if layout != "upright" else _in_every_form(this)):
        (tmp_path / f"{number}-{ds.Modality}.dcm").write_bytes(provenance.part10(ds))
    script = Path(__file__).resolve().parents[1] / "validate_results.sh"
    if layout != "upright":
        assert shutil.which("dciodvfy"), "dciodvfy is missing: install dicom3tools"
        for path in tmp_path.iterdir():
            found = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
            assert "Error" not in found.stdout + found.stderr
        return
    found = subprocess.run(
        ["bash", script, "--strict", tmp_path], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("younger ") == 4


def _in_every_form(this: Outcome) -> list[Dataset]:
    """What was made, and label map, OBJ with its colours, a film of one frame; by a task that had a prior, too."""
    emitted = [
        (name, dataclasses.replace(value, frames=value.frames[:1]) if isinstance(value, Turntable) else value)
        for name, value in this.host.emitted
    ]
    sources = (*this.run.sources, *result_objects.prior(list(this.run.sources)))
    return encode(dataclasses.replace(this.run, sources=sources), emitted, FORMS)
