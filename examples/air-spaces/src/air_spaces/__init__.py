"""Air inside the body on CT: what is as thin as air and does not reach the edge of its slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from analysis.api import (
    Code,
    Context,
    Input,
    LabelMap,
    Manifest,
    Measurement,
    NotAnalysable,
    Output,
    Params,
    Resources,
    Segment,
    SegmentMeasurements,
    Table,
    TaskResult,
    Volume,
    VolumeReport,
    When,
)

AIR = Segment(
    number=1,
    label="Air",
    category=Code("91720002", "SCT", "Body substance"),
    type=Code("15158005", "SCT", "Air"),
    colour=(120, 190, 230),
)
VOLUME = Code("118565006", "SCT", "Volume")
LARGEST = Code("air-spaces.largest", "99AIRSPACES", "Volume of largest part")
MILLILITRE = Code("mL", "UCUM", "milliliter")


class AirParams(Params):
    """What a user can set."""

    threshold: float = Field(
        -400,
        ge=-950,
        le=-100,
        title="Thinner than",
        description="Voxels below this density count as air",
        json_schema_extra={"unit": "[hnsf'U]"},
    )
    smallest_ml: float = Field(
        0.1,
        ge=0,
        le=100,
        title="Smallest part",
        description="Smaller parts are left out",
        json_schema_extra={"unit": "mL"},
    )


class AirSpaces:
    """Labels enclosed air and reports its volume."""

    manifest: ClassVar[Manifest] = Manifest(
        id="air-spaces",
        version="1.0.0",
        title="Air spaces",
        description="Air inside the body on CT, as a segmentation and its volume.",
        inputs=(Input(name="ct", load="volume", where=(When(attribute="Modality", value="CT"),), min_instances=10),),
        outputs=(Output(name="labels", kind="SEG"), Output(name="report", kind="SR")),
        resources=Resources(gpu=True, memory_mb=4096, timeout_s=600),
    )
    params: ClassVar[type[Params]] = AirParams

    def run(self, ctx: Context, params: Any) -> None:
        """Find the parts, measure them slice by slice, keep those that are large enough."""
        volume: Volume = ctx.inputs["ct"]
        xp, nd = ctx.xp, ctx.nd
        inside = xp.zeros(volume.data.shape, bool)
        for number, plane in enumerate(volume.data):
            inside[number] = enclosed(xp.asarray(plane) < params.threshold, xp, nd)
            ctx.progress(0.6 * number / len(volume.data), "looking for air")
        parts, count = nd.label(inside)
        ctx.progress(0.7, "measuring")
        each = xp.asarray(voxel_volumes(volume))  # mm3 of a voxel of each slice
        sizes = xp.zeros(int(count) + 1)
        for plane, size in zip(parts, each, strict=True):
            sizes += xp.bincount(plane.ravel(), minlength=int(count) + 1) * size
        sizes[0] = 0
        sizes = sizes / 1000
        kept = (sizes >= params.smallest_ml) & (sizes > 0)
        if not bool(kept.any()):
            raise NotAnalysable(
                f"No air inside the body: no part of at least {params.smallest_ml:g} ml is thinner than "
                f"{params.threshold:g} HU and clear of the edges of its slices."
            )
        labels = kept[parts].astype(xp.uint8)
        total, largest = float(sizes[kept].sum()), float(sizes.max())
        ctx.emit("labels", LabelMap(volume, labels.get() if hasattr(labels, "get") else labels, (AIR,)))
        measured = (Measurement(VOLUME, total, MILLILITRE), Measurement(LARGEST, largest, MILLILITRE))
        words = f"{total:.1f} ml of air inside the body, {largest:.1f} ml of it in one part."
        ctx.emit("report", VolumeReport(volume, (SegmentMeasurements(AIR, measured),), words))

    def reduce(self, ctx: Context, results: Sequence[TaskResult], params: Any) -> Table:
        """Of a batch: a line for each series, the largest volume first, and where each stands among all."""
        found = [(measured.value, result) for result in results for measured in _volumes(result)]
        found.sort(key=lambda each: -each[0])
        volumes = ctx.xp.asarray([volume for volume, _ in found])
        rows = tuple(
            (result.study_instance_uid, result.label, round(volume, 2), round(100 * float((volumes <= volume).mean())))
            for volume, result in found
        )
        without = len(results) - len(found)
        middle = f"Median {float(ctx.xp.median(volumes)):.1f} ml of air" if found else "No air"
        words = f"{middle} in {len(found)} series thinner than {params.threshold:g} HU; {without} without."
        return Table("Air inside the body", ("Study", "Series", "Air [mL]", "Percentile"), rows, words)


def _volumes(result: TaskResult) -> Iterator[Measurement]:
    return (each for one in result.findings for each in one.measurements if each.name.value == VOLUME.value)


def enclosed(air: Any, xp: Any, nd: Any) -> Any:
    """The air of one slice that does not reach its edge: (rows, columns) bool."""
    parts, count = nd.label(air)
    edge = xp.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    outside = xp.zeros(int(count) + 1, bool)
    outside[edge] = True
    outside[0] = True
    return ~outside[parts]


def voxel_volumes(volume: Volume) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The volume of a voxel of each slice in mm3, (slices,): slices reach half-way to their neighbours."""
    along = volume.positions @ np.cross(volume.row, volume.column)
    return np.asarray(np.abs(np.gradient(along)) * volume.spacing[0] * volume.spacing[1])


plugin = AirSpaces()
