#!/usr/bin/env python
"""Every algorithm on NumPy and on CuPy: are they equal within bounds that are stated, and how long does each take?

    python tests/gpu/parity.py                 on any machine with CuPy; says so and ends where there is no GPU
    python tests/gpu/parity.py --need-gpu      the same, but without a GPU it ends with status 2
    python tests/gpu/parity.py --against numpy NumPy against itself: the script at work where there is no GPU

Needs this repository, its `install` extras and CuPy (`pip install cupy-cuda12x`, or the one that fits the driver). Ends
with 1 where a bound is broken. `--size` is that of the CT phantom (voxels a side), `--json FILE` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis import device
from analysis.algorithms import (
    breast_mask,
    candidates,
    components,
    marching_cubes,
    smoothing,
    texture,
    threshold,
    volume_rendering,
)
from analysis.algorithms.geometry import Grid
from analysis.algorithms.teeth import find_teeth
from analysis.api import Image, ImageFindings, LabelMap, Surface
from analysis.evaluation import ct_phantom, mammogram_phantom
from analysis.kit.context import LocalContext
from analysis.plugins.bone_surface import BoneSurface, BoneSurfaceParams
from analysis.plugins.microcalcification import Microcalcification, MicrocalcificationParams

HU = 300.0
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One algorithm. run(xp, nd, backend): arrays and numbers by name; bounds: the largest difference of each."""

    name: str
    run: Callable[[Any, Any, device.Backend], Results]
    bounds: Mapping[str, float]


def host(value: Any) -> np.ndarray[Any, Any]:
    """A value as a NumPy array, from whatever device it lies on."""
    return np.asarray(value.get() if hasattr(value, "get") else value)


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference; of masks the share of elements that differ; infinite where the shapes differ."""
    one, two = host(ours), host(theirs)
    if one.shape != two.shape:
        return float("inf")
    if not one.size:
        return 0.0
    if one.dtype == bool:
        return float((one != two).mean())
    return float(np.abs(one.astype(np.float64) - two.astype(np.float64)).max())


def ct_cases(size: int) -> list[Case]:
    """The parts of the bone analysis, and the whole of it."""
    spacing = 96 * 0.7 / size
    scan = ct_phantom.volume(ct_phantom.Phantom(), size, spacing)
    grid = Grid(scan.positions, scan.row, scan.column, scan.spacing)
    voxels = grid.voxel_volumes()

    def smooth(xp: Any, nd: Any) -> Any:
        return smoothing.gaussian(xp.asarray(scan.data), (0.7, 0.7, 0.7), xp, nd)

    def thresholds(xp: Any, nd: Any, _: device.Backend) -> Results:
        field = smooth(xp, nd)
        guess = threshold.first_guess(field, xp)
        return {"guess HU": guess, "iso HU": threshold.half_maximum(field, field > guess, guess, xp, nd)}

    def pieces(xp: Any, nd: Any, _: device.Backend) -> Results:
        dense = smooth(xp, nd) > HU
        large = components.keep_large(dense, 50.0, voxels, xp, nd)
        return {"mask": large, "closed": components.close_small_cavities(large, 30.0, voxels, xp, nd)}

    def surface(xp: Any, nd: Any, _: device.Backend) -> Results:
        vertices, faces = marching_cubes.marching_cubes(smooth(xp, nd), HU, xp)
        return {"vertices voxel": vertices, "faces": faces}

    def teeth(xp: Any, nd: Any, _: device.Backend) -> Results:
        field = smooth(xp, nd)
        found = find_teeth(field, field > HU, grid, xp, nd)
        return {"found": float(found is not None), "mask": found[0] > 0 if found else np.zeros(1, bool)}

    def whole(xp: Any, nd: Any, backend: device.Backend) -> Results:
        ctx = LocalContext({"series": scan})
        ctx.xp, ctx.nd, ctx.backend = xp, nd, backend.description
        BoneSurface().run(ctx, BoneSurfaceParams(views=0))
        labels = next(value for _, value in ctx.emitted if isinstance(value, LabelMap))
        meshes = [value for _, value in ctx.emitted if isinstance(value, Surface)]
        corner = [float(np.abs(mesh.vertices).sum(dtype=np.float64) / max(1, mesh.vertices.size)) for mesh in meshes]
        return {"labels": labels.labels > 0, "surfaces": float(len(meshes)), "mean place mm": np.asarray(corner)}

    def turntable(xp: Any, nd: Any, _: device.Backend) -> Results:
        cube = volume_rendering.cube(smooth(xp, nd), grid, -250.0, 2000.0, xp, nd)
        looks = volume_rendering.transfer(cube.low, cube.high, HU)
        frames = volume_rendering.turntable(cube, looks, 3, xp, nd)
        return {"voxels": cube.data.astype(np.float32), "mean light": frames.mean(axis=(1, 2, 3))}

    return [
        Case("smoothing", lambda xp, nd, _: {"HU": smooth(xp, nd)}, {"HU": 0.01}),
        Case("threshold", thresholds, {"guess HU": 1.0, "iso HU": 1.0}),
        Case("components", pieces, {"mask": 1e-6, "closed": 1e-6}),
        Case("marching cubes", surface, {"vertices voxel": 1e-3, "faces": 0}),
        Case("teeth", teeth, {"found": 0, "mask": 1e-3}),
        Case("turntable", turntable, {"voxels": 1, "mean light": 0.5}),
        Case("plug-in bone-surface", whole, {"labels": 1e-3, "surfaces": 0, "mean place mm": 0.05}),
    ]


def mammogram_cases() -> list[Case]:
    """The parts of the mammography, and the whole of it."""
    made = mammogram_phantom.phantom(3, size_mm=(60.0, 40.0))
    ds = mammogram_phantom.to_dataset(made)
    spacing = float(ds.ImagerPixelSpacing[0])
    pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    inverted = ds.PhotometricInterpretation == "MONOCHROME1"
    bright = (pixels.max() - pixels if inverted else pixels).astype(np.float32)
    image = Image(
        pixels, (spacing, spacing), inverted, str(ds.SOPInstanceUID), attributes=json.loads(ds.to_json(lambda _: ""))
    )

    def breast(xp: Any, nd: Any, _: device.Backend) -> Results:
        found = breast_mask.find(xp.asarray(bright), spacing, xp, nd)
        assert found is not None
        return {"mask": found.mask, "area mm2": found.area_mm2, "edge mm": found.edge_mm}

    def spots(xp: Any, nd: Any, _: device.Backend) -> Results:
        found = breast_mask.find(xp.asarray(bright), spacing, xp, nd)
        assert found is not None
        field = candidates.prepare(xp.asarray(bright), spacing, found, xp, nd)
        seen = candidates.find(field, xp, nd, limit=50)
        return {"heights": np.sort(seen.height)[::-1][:30]}

    def textures(xp: Any, _nd: Any, _: device.Backend) -> Results:
        patches = xp.asarray(np.random.default_rng(1).normal(size=(20, 32, 32)).astype(np.float32))
        return {"glcm": texture.glcm(patches, xp), "lbp": texture.lbp(patches, xp)}

    def whole(xp: Any, nd: Any, backend: device.Backend) -> Results:
        ctx = LocalContext({"images": (image,)})
        ctx.xp, ctx.nd, ctx.backend = xp, nd, backend.description
        Microcalcification().run(ctx, MicrocalcificationParams())
        findings = next(value for _, value in ctx.emitted if isinstance(value, ImageFindings))
        scores = sorted(mark.score for mark in findings.marks)
        places = np.sort(np.concatenate([mark.points.reshape(-1) for mark in findings.marks] or [np.zeros(0)]))
        return {"marks": float(len(scores)), "scores": np.asarray(scores), "places px": places}

    return [
        Case("breast mask", breast, {"mask": 1e-3, "area mm2": 5.0, "edge mm": 1.0}),
        Case("candidates", spots, {"heights": 0.05}),
        Case("texture", textures, {"glcm": 1e-3, "lbp": 1e-3}),
        Case("plug-in microcalcification", whole, {"marks": 0, "scores": 0.01, "places px": 1.0}),
    ]


def timed(case: Case, backend: device.Backend, times: int) -> tuple[Results, float]:
    """What it gives, and the median of its wall time in ms once it is warm."""
    found = case.run(backend.xp, backend.nd, backend)
    took = []
    for _ in range(times):
        began = time.perf_counter()
        found = {name: host(value) for name, value in case.run(backend.xp, backend.nd, backend).items()}
        took.append(1e3 * (time.perf_counter() - began))
    return {name: host(value) for name, value in found.items()}, statistics.median(took)


def compared(cases: list[Case], other: device.Backend, times: int) -> Iterator[dict[str, Any]]:
    """A row for each algorithm: times on both, the differences, and whether the bounds hold."""
    cpu = device.choose("cpu")
    for case in cases:
        ours, on_cpu = timed(case, cpu, times)
        theirs, on_other = timed(case, other, times)
        apart = {name: difference(ours[name], theirs[name]) for name in case.bounds}
        holds = all(apart[name] <= bound for name, bound in case.bounds.items())
        yield {
            "name": case.name, "numpy_ms": on_cpu, "other_ms": on_other, "apart": apart, "bounds": dict(case.bounds),
            "holds": holds,
        }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=160, help="voxels a side of the CT phantom (160)")
    parser.add_argument("--times", type=int, default=3, help="runs that are timed (3)")
    parser.add_argument("--against", choices=("gpu", "numpy"), default="gpu", help="what NumPy is compared with (gpu)")
    parser.add_argument("--need-gpu", action="store_true", help="status 2 where there is none")
    parser.add_argument("--only", default="", metavar="WORD", help="cases with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the figures")
    given = parser.parse_args(arguments)
    from pacs.errors import Unavailable

    try:
        other = device.choose(given.against if given.against == "gpu" else "cpu")
    except Unavailable as error:
        print(f"skipped: {error.reason}")
        return 2 if given.need_gpu else 0
    print(
        f"NumPy {np.__version__} against {other.description}; CT phantom of {given.size}^3, median of {given.times}\n"
    )
    print("| algorithm | NumPy ms | other ms | times | apart (bound) | |\n|---|---:|---:|---:|---|---|")
    rows = []
    chosen = [case for case in [*ct_cases(given.size), *mammogram_cases()] if given.only in case.name]
    for row in compared(chosen, other, given.times):
        rows.append(row)
        apart = ", ".join(f"{name} {value:.3g} ({row['bounds'][name]:g})" for name, value in row["apart"].items())
        faster = row["numpy_ms"] / row["other_ms"]
        verdict = "ok" if row["holds"] else "**BROKEN**"
        print(f"| {row['name']} | {row['numpy_ms']:.1f} | {row['other_ms']:.1f} | {faster:.1f} | {apart} | {verdict} |")
    if given.json:
        given.json.write_text(json.dumps({"backend": other.description, "size": given.size, "rows": rows}, indent=1))
    return 0 if rows and all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
