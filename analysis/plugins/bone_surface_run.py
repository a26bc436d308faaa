"""Owns how the plug-in `bone_surface` works: threshold, labels of bone and teeth, surfaces, pictures, measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.algorithms import components, smoothing, threshold, volume_rendering
from analysis.algorithms.geometry import Grid
from analysis.algorithms.surface import Mesh, surface
from analysis.algorithms.teeth import find_teeth, without_teeth
from analysis.api import (
    CODE_SCHEME,
    MILLIMETRE,
    Code,
    Context,
    LabelMap,
    Measurement,
    NotAnalysable,
    Segment,
    SegmentMeasurements,
    Surface,
    Turntable,
    Volume,
    VolumeRendering,
    VolumeReport,
)

if TYPE_CHECKING:
    from analysis.plugins.bone_surface import BoneSurfaceParams

ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
BONE = Segment(1, "Bone", ANATOMY, Code("272673000", "SCT", "Bone"), (222, 205, 176))
TEETH = Segment(2, "Teeth", ANATOMY, Code("38199008", "SCT", "Tooth"), (250, 248, 240))
VOLUME = Code("118565006", "SCT", "Volume")
AREA = Code("C0JK", "IBSI", "Surface Area of Mesh")
SURFACE_ERROR = Code("surface-error", CODE_SCHEME, "Surface error bound")
CUBIC_MILLIMETRE = Code("mm3", "UCUM", "cubic millimeter")
SQUARE_MILLIMETRE = Code("mm2", "UCUM", "square millimeter")

_LEAST_BONE_MM3 = 1000.0
_AIR_HU, _DENSEST_HU = -250.0, 2000.0  # what the volume to look at spans: nothing below or above looks different
_CAVITY_MM3 = 8.0  # enclosed holes below this are noise, not anatomy


@dataclass(frozen=True)
class _Label:
    segment: Segment
    mask: Any  # in the cropped volume
    iso: float


def run(ctx: Context, params: BoneSurfaceParams) -> None:
    """Emit a LabelMap, a Surface per label and a VolumeReport; NotAnalysable where there is too little bone."""
    volume: Volume = ctx.inputs["series"]
    _check(volume)
    xp, nd = ctx.xp, ctx.nd
    whole = Grid(volume.positions, volume.row, volume.column, volume.spacing)
    ctx.progress(0.02, "smoothing")
    across = params.smoothing_voxels * float(np.mean(volume.spacing))
    sigma = (across / float(np.median(whole.gaps)), across / volume.spacing[0], across / volume.spacing[1])
    field = smoothing.gaussian(xp.asarray(volume.data), sigma, xp, nd)
    ctx.progress(0.15, "finding the threshold")
    iso = params.threshold_hu if params.threshold_hu is not None else _threshold(field, xp, nd)
    if params.views:
        ctx.progress(0.2, "volume rendering")
        _pictures(ctx, params, volume, field, whole, iso)
    ctx.progress(0.25, "finding bone")
    bone, box = _bone(field, iso, params.min_component_ml * 1000, whole, xp, nd)
    field = field[box]
    grid = whole.crop(box)
    bone = components.close_small_cavities(bone, _CAVITY_MM3, grid.voxel_volumes(), xp, nd)
    labels = [_Label(BONE, bone, iso)]
    if params.separate_teeth:
        ctx.progress(0.35, "looking for teeth")
        labels = _separate(field, labels[0], params.min_component_ml * 1000, grid, xp, nd)
    meshes = _meshes(ctx, params, field, grid, labels)
    _emit(ctx, params, volume, box, labels, meshes, iso)
    ctx.progress(1.0, "done")


def _meshes(ctx: Context, params: BoneSurfaceParams, field: Any, grid: Grid, labels: list[_Label]) -> list[Mesh]:
    meshes = []
    budget = params.max_triangles
    for number, label in reversed(list(enumerate(labels))):  # teeth first: bone gets what they leave
        start, share = 0.4 + 0.5 * (len(labels) - 1 - number) / len(labels), 0.5 / len(labels)
        name = label.segment.label.lower()

        def report(fraction: float, message: str, start: float = start, share: float = share, name: str = name) -> None:
            ctx.progress(start + share * fraction, f"{name}: {message}")

        report(0.0, "meshing")
        mesh = surface(
            field, label.mask, label.iso, grid,
            error_mm=_error_bound(params, grid), budget=budget if number == 0 else budget // 3,
            refined=params.threshold_hu is None, xp=ctx.xp, nd=ctx.nd, progress=report,
        )  # fmt: skip
        budget -= len(mesh.faces)
        meshes.append(mesh)
    return meshes[::-1]


def _pictures(ctx: Context, params: BoneSurfaceParams, volume: Volume, field: Any, grid: Grid, iso: float) -> None:
    """Emit the volume to look at and the turntable."""
    cube = volume_rendering.cube(field, grid, _AIR_HU, max(_DENSEST_HU, 2 * iso), ctx.xp, ctx.nd)
    looks = volume_rendering.transfer(cube.low, cube.high, iso)
    frames = volume_rendering.turntable(
        cube, looks, params.views, ctx.xp, ctx.nd, lambda share: ctx.progress(0.2 + 0.05 * share, "volume rendering")
    )
    data = cube.data.get() if hasattr(cube.data, "get") else cube.data
    ctx.emit("pictures", VolumeRendering(volume, data, cube.origin, cube.pitch, cube.low, cube.high, iso))
    if frames.any():  # in a scan of which nothing is seen there is nothing to turn
        ctx.emit("pictures", Turntable(volume, frames, cube.pitch))


def _check(volume: Volume) -> None:
    image_type = (volume.attributes.get("00080008") or {}).get("Value") or ()
    if "LOCALIZER" in image_type:
        raise NotAnalysable("This series is a localizer, not a volume.")
    if len(volume.data) < 3 or min(volume.data.shape[1:]) < 8:
        raise NotAnalysable("This series has too few slices or too small slices for a surface.")
    if float(volume.data.max()) < 100:
        raise NotAnalysable("Nothing in this series is as dense as bone.")


def _error_bound(params: BoneSurfaceParams, grid: Grid) -> float:
    """The surface between two slices is known no better than a part of their gap: finer triangles would be invented."""
    if params.error_mm is not None:
        return params.error_mm
    return max(0.1, 0.1 * float(np.median(grid.gaps)))


def _threshold(field: Any, xp: Any, nd: Any) -> float:
    guess = threshold.first_guess(field, xp)
    return threshold.half_maximum(field, field > guess, guess, xp, nd, step=max(1, len(field) // 40))


def _bone(
    field: Any, iso: float, least_mm3: float, grid: Grid, xp: Any, nd: Any
) -> tuple[Any, tuple[slice, slice, slice]]:
    """The bone above `iso` in pieces of `least_mm3` or more, cropped, and where it was cropped from."""
    dense = field > np.floor(iso) + 0.5
    judged = field if iso > 0 else None  # a threshold of the user's for soft tissue keeps all
    mask = components.keep_large(dense, least_mm3, grid.voxel_volumes(), xp, nd, judged)
    host = xp.asarray(grid.voxel_volumes())
    found = float((mask.sum(axis=(1, 2)) * host).sum())
    if found < _LEAST_BONE_MM3:
        raise NotAnalysable(
            f"Too little bone for a surface: {found / 1000:.2f} ml denser than {iso:.0f} HU, "
            f"at least {_LEAST_BONE_MM3 / 1000:.0f} ml is needed."
        )
    z, y, x = components.bounding_box(mask, 3, xp)
    if z.stop - z.start < 2:
        raise NotAnalysable("Bone is on a single slice only: no surface can be made.")
    return mask[z, y, x], (z, y, x)


def _separate(field: Any, bone: _Label, least_mm3: float, grid: Grid, xp: Any, nd: Any) -> list[_Label]:
    found = find_teeth(field, bone.mask, grid, xp, nd)
    if found is None:
        return [bone]
    teeth, iso = found
    rest = components.keep_large(without_teeth(bone.mask, teeth, nd), least_mm3, grid.voxel_volumes(), xp, nd)
    if not bool(rest.any()):
        return [bone]
    return [_Label(BONE, rest, bone.iso), _Label(TEETH, teeth, iso)]


def _emit(
    ctx: Context,
    params: BoneSurfaceParams,
    volume: Volume,
    box: tuple[slice, slice, slice],
    labels: list[_Label],
    meshes: list[Mesh],
    iso: float,
) -> None:
    values = np.zeros(volume.data.shape, np.uint8)
    crop = values[box]
    for label in labels:
        mask = label.mask.get() if hasattr(label.mask, "get") else label.mask
        crop[mask] = label.segment.number
    ctx.emit("labels", LabelMap(volume, values, tuple(label.segment for label in labels)))
    groups = []
    for label, mesh in zip(labels, meshes, strict=True):
        ctx.emit("surfaces", Surface(volume, label.segment, mesh.vertices, mesh.faces, mesh.error_mm))
        measurements = (
            Measurement(VOLUME, round(mesh.volume_mm3, 1), CUBIC_MILLIMETRE),
            Measurement(AREA, round(mesh.area_mm2, 1), SQUARE_MILLIMETRE),
            Measurement(SURFACE_ERROR, round(mesh.error_mm, 3), MILLIMETRE),
        )
        groups.append(SegmentMeasurements(label.segment, measurements))
    how = "set by the user" if params.threshold_hu is not None else "found from the image"
    parts = [
        f"{label.segment.label}: {mesh.volume_mm3 / 1000:.1f} ml, {mesh.area_mm2 / 100:.0f} cm2, "
        f"{len(mesh.faces)} triangles"
        for label, mesh in zip(labels, meshes, strict=True)
    ]
    ctx.emit("report", VolumeReport(volume, tuple(groups), f"{'; '.join(parts)}. Threshold {iso:.0f} HU, {how}."))
