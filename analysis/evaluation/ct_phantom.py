"""Owns the CT head phantom: bone and teeth as solids whose exact distance to any point is a formula.

Every solid is a sphere, capsule, rounded tube or arc, and solids of one label never touch, so the signed distance to
the label's surface is exact near that surface and a mesh is judged without a reference mesh. The CT is sampled from
blurred edges at whatever positions a scanner would have been: upright, with gantry tilt, with uneven gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from scipy.special import erf

from analysis.algorithms.geometry import Grid
from analysis.api import Volume
from pacs import uids

Points = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]
Distance = Callable[[Points], Values]
Layout = Literal["upright", "tilted", "uneven"]

AIR_HU, SOFT_HU, CRANIUM_HU, SPINE_HU, CORTEX_HU, MARROW_HU, TOOTH_HU = -1000, 40, 900, 800, 1200, 150, 2300
INTERCEPT = -1024


def _sphere(centre: tuple[float, float, float], radius: float) -> Distance:
    return lambda p: np.asarray(np.linalg.norm(p - np.asarray(centre), axis=-1) - radius, np.float64)


def _upright_capsule(centre: tuple[float, float, float], half: float, radius: float) -> Distance:
    def distance(p: Points) -> Values:
        q = p - np.asarray(centre)
        z = np.maximum(np.abs(q[..., 2]) - half, 0)
        return np.asarray(np.sqrt(q[..., 0] ** 2 + q[..., 1] ** 2 + z**2) - radius, np.float64)

    return distance


def _tube(centre: tuple[float, float, float], inner: float, outer: float, half: float, rounding: float) -> Distance:
    """A tube along z: a rounded rectangle turned about its axis."""

    def distance(p: Points) -> Values:
        q = p - np.asarray(centre)
        across = np.abs(np.hypot(q[..., 0], q[..., 1]) - (inner + outer) / 2) - (outer - inner) / 2 + rounding
        along = np.abs(q[..., 2]) - half + rounding
        outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
        return np.asarray(outside + np.minimum(np.maximum(across, along), 0) - rounding, np.float64)

    return distance


def _arc(centre: tuple[float, float, float], major: float, minor: float, half_angle: float) -> Distance:
    """A horseshoe in the x-y plane, open towards +y, with round ends."""
    sine, cosine = np.sin(half_angle), np.cos(half_angle)

    def distance(p: Points) -> Values:
        q = p - np.asarray(centre)
        x, y = np.abs(q[..., 0]), -q[..., 1]
        along = np.where(cosine * x > sine * y, x * sine + y * cosine, np.hypot(x, y))
        square = (q**2).sum(axis=-1) + major**2 - 2 * major * along
        return np.asarray(np.sqrt(np.maximum(square, 0)) - minor, np.float64)

    return distance


@dataclass(frozen=True)
class Phantom:
    """A head of about 96 mm times `scale`, centred on the origin of the patient frame (LPS, mm).

    bone: cranium (a closed shell), spine (a rounded tube) and the cortex of the mandible (a horseshoe around marrow).
    teeth: ten capsules above the mandible. Distances are signed, negative inside.
    """

    scale: float = 1.0
    blur_mm: float = 0.35

    def _scaled(self, make: Callable[..., Distance], centre: tuple[float, float, float], *sizes: float) -> Distance:
        x, y, z = centre
        return make((x * self.scale, y * self.scale, z * self.scale), *(size * self.scale for size in sizes))

    @property
    def _cranium(self) -> tuple[Distance, Distance]:
        centre = (0.0, 4.0, 20.0)
        return self._scaled(_sphere, centre, 26.5), self._scaled(_sphere, centre, 22.0)

    @property
    def _spine(self) -> Distance:
        return self._scaled(_tube, (0.0, 24.0, -31.0), 4.0, 9.0, 15.0, 1.5)

    @property
    def _mandible(self) -> tuple[Distance, Distance]:
        centre = (0.0, -6.0, -25.0)
        return (
            _arc(self._at(centre), 20 * self.scale, 5.5 * self.scale, _JAW_HALF_ANGLE),
            _arc(self._at(centre), 20 * self.scale, 2.5 * self.scale, _JAW_HALF_ANGLE),
        )

    def _at(self, centre: tuple[float, float, float]) -> tuple[float, float, float]:
        return centre[0] * self.scale, centre[1] * self.scale, centre[2] * self.scale

    @property
    def _teeth(self) -> list[Distance]:
        angles = np.linspace(-1.4, 1.4, 10)
        return [
            self._scaled(_upright_capsule, (20 * float(np.sin(a)), -6 - 20 * float(np.cos(a)), -12.5), 3.0, 2.5)
            for a in angles
        ]

    def bone_distance(self, points: Points) -> Values:
        """Signed distance in mm of points (..., 3) to the surface of all bone, its inner surfaces included."""
        (outer, inner), (jaw, marrow) = self._cranium, self._mandible
        shell = np.maximum(outer(points), -inner(points))
        cortex = np.maximum(jaw(points), -marrow(points))
        return np.asarray(np.minimum(np.minimum(shell, cortex), self._spine(points)), np.float64)

    def teeth_distance(self, points: Points) -> Values:
        """Signed distance in mm of points (..., 3) to the surface of the teeth."""
        return np.asarray(np.min([tooth(points) for tooth in self._teeth], axis=0), np.float64)

    @property
    def bone_volume(self) -> float:
        """Exact volume of all bone in mm3."""
        cranium = 4 / 3 * np.pi * (26.5**3 - 22.0**3)

        def arc(minor: float) -> float:
            return float(2 * _JAW_HALF_ANGLE * 20 * np.pi * minor**2 + 4 / 3 * np.pi * minor**3)

        return float((cranium + _tube_volume(4, 9, 15, 1.5) + arc(5.5) - arc(2.5)) * self.scale**3)

    @property
    def bone_area(self) -> float:
        """Exact area of all bone surfaces, inner ones included, in mm2."""
        cranium = 4 * np.pi * (26.5**2 + 22.0**2)

        def arc(minor: float) -> float:
            return float(2 * _JAW_HALF_ANGLE * 20 * 2 * np.pi * minor + 4 * np.pi * minor**2)

        return float((cranium + _tube_area(4, 9, 15, 1.5) + arc(5.5) + arc(2.5)) * self.scale**2)

    @property
    def teeth_volume(self) -> float:
        """Exact volume of the ten teeth in mm3."""
        return float(10 * (np.pi * 2.5**2 * 6 + 4 / 3 * np.pi * 2.5**3) * self.scale**3)

    def hounsfield(self, points: Points) -> Values:
        """Hounsfield units at points (..., 3) mm: every edge blurred by a Gaussian of `blur_mm`, no noise."""

        def paint(ground: Values, value: float, distance: Values) -> Values:
            share = 0.5 - 0.5 * erf(distance / (self.blur_mm * np.sqrt(2)))
            return np.asarray(ground + (value - ground) * share, np.float64)

        head = np.hypot(points[..., 0], points[..., 1]) - 44 * self.scale
        hu = paint(np.full(points.shape[:-1], float(AIR_HU)), SOFT_HU, head)
        airway = self._scaled(_upright_capsule, (0.0, 8.0, -31.0), 12.0, 3.5)
        hu = paint(hu, AIR_HU, airway(points))
        (outer, inner), (jaw, marrow) = self._cranium, self._mandible
        hu = paint(hu, CRANIUM_HU, np.maximum(outer(points), -inner(points)))
        hu = paint(hu, SPINE_HU, self._spine(points))
        hu = paint(paint(hu, CORTEX_HU, jaw(points)), MARROW_HU, marrow(points))
        return paint(hu, TOOTH_HU, self.teeth_distance(points))


_JAW_HALF_ANGLE = 1.7


def _tube_volume(inner: float, outer: float, half: float, rounding: float) -> float:
    section = (outer - inner) * 2 * half - (4 - np.pi) * rounding**2
    return float(section * np.pi * (inner + outer))  # Pappus: the section is symmetric about its mean radius


def _tube_area(inner: float, outer: float, half: float, rounding: float) -> float:
    outline = 2 * (outer - inner) + 4 * half - (8 - 2 * np.pi) * rounding
    return float(outline * np.pi * (inner + outer))


def grid(size: int, spacing: float, layout: Layout = "upright") -> tuple[Grid, tuple[int, int]]:
    """The voxels of a scan of `size` columns at `spacing` mm, and its (rows, columns).

    "upright": as many slices as columns, cubic voxels. "tilted": the gantry leans 18 degrees about the left-right axis
    while the table moves along z. "uneven": gaps of one, two and then one and a half voxels.
    """
    half = size * spacing / 2
    row, column = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    if layout == "tilted":
        angle = np.radians(18.0)
        column = np.array([0.0, np.cos(angle), np.sin(angle)])
        reach = half * (1 + np.tan(angle))
        z = np.arange(-reach, reach, spacing)
    elif layout == "uneven":
        gaps = np.tile([*[1.0] * 12, *[2.0] * 6, *[1.5] * 8], size)[:size] * spacing
        z = -half + np.concatenate([[0.0], np.cumsum(gaps)])
        z = z[z < half]
    else:
        z = -half + spacing * (np.arange(size) + 0.5)
    first = -half + spacing / 2
    positions = np.zeros((len(z), 3)) + first * row + first * column
    positions[:, 2] += z
    return Grid(positions, row, column, (spacing, spacing)), (size, size)


def volume(
    phantom: Phantom, size: int, spacing: float, layout: Layout = "upright", *, noise_hu: float = 40.0, seed: int = 0
) -> Volume:
    """The phantom's CT as the loader would hand it over: int16 Hounsfield units with Gaussian noise."""
    scan, (rows, columns) = grid(size, spacing, layout)
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    flat = np.stack([np.zeros(rows * columns), y.ravel(), x.ravel()], axis=1)
    data = np.empty((len(scan.positions), rows, columns), np.int16)
    for k in range(len(data)):
        flat[:, 0] = k
        hu = phantom.hounsfield(scan.to_patient(flat)) + noise.normal(0, noise_hu, rows * columns)
        data[k] = np.clip(np.rint(hu), INTERCEPT, 4095 + INTERCEPT).reshape(rows, columns)
    series = ("ct phantom", str(phantom), size, f"{spacing:g}", layout, f"{noise_hu:g}", seed)
    return Volume(
        data=data,
        positions=scan.positions,
        row=scan.row,
        column=scan.column,
        spacing=scan.spacing,
        sop_instance_uids=tuple(uids.derived("instance", *series, k) for k in range(len(data))),
        frame_of_reference_uid=uids.derived("frame of reference", *series),
    )


def ct_series(scan: Volume, *, study: str = "phantom", patient_id: str = "PHANTOM-CT") -> list[Dataset]:
    """The CT Image instances of a phantom volume, ready to be written; equal volumes give equal instances."""
    series_uid = uids.derived("series", scan.frame_of_reference_uid)
    slices = []
    for k, (plane, position) in enumerate(zip(scan.data, scan.positions, strict=True)):
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, scan.sop_instance_uids[k]
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20260102"
        ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "101500"
        ds.AccessionNumber, ds.StudyID = "PHANTOM", "1"
        ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "m3DICOM", "CT phantom"
        ds.ReferringPhysicianName = ""
        ds.StudyDescription, ds.SeriesDescription = "Synthetic head", "Bone and teeth phantom"
        ds.PatientName, ds.PatientID = "Phantom^Bone", patient_id
        ds.PatientBirthDate, ds.PatientSex = "", "O"
        ds.PatientPosition, ds.BodyPartExamined = "HFS", "HEAD"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = uids.derived("study", study), series_uid
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = scan.frame_of_reference_uid, ""
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 1, 1, k + 1
        ds.ImagePositionPatient = [f"{c:.10g}" for c in position]
        ds.ImageOrientationPatient = [f"{c:.10g}" for c in (*scan.row, *scan.column)]
        ds.PixelSpacing = [f"{s:.10g}" for s in scan.spacing]
        ds.SliceThickness, ds.KVP = f"{scan.spacing[0]:.10g}", "120"
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = plane.shape
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = INTERCEPT, 1, "HU"
        ds.WindowCenter, ds.WindowWidth = 400, 2000
        ds.PixelData = (plane.astype(np.int32) - INTERCEPT).astype("<u2").tobytes()
        slices.append(ds)
    return slices
