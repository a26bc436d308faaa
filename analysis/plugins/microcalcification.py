"""Owns the plug-in that marks clusters of microcalcifications on mammograms and digitised films.

A server loads it to know what it takes; what only a run needs is imported there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from analysis.api import (
    NO_UNIT,
    Code,
    Context,
    Image,
    ImageFindings,
    Input,
    Manifest,
    Mark,
    Measurement,
    NotAnalysable,
    OperatingPoint,
    Output,
    Params,
    Resources,
    When,
)

if TYPE_CHECKING:
    from analysis.algorithms import mammography

FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.2"
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
TOMOSYNTHESIS = frozenset({"1.2.840.10008.5.1.4.1.1.13.1.3", "1.2.840.10008.5.1.4.1.1.13.1.4"})

CLUSTER = Code("129769006", "SCT", "Calcification Cluster")
CALCIFICATION = Code("129770007", "SCT", "Individual Calcification")
COUNT = Code("111038", "DCM", "Number of calcifications")
DIAMETER = Code("81827009", "SCT", "Diameter")
MILLIMETRE = Code("mm", "UCUM", "millimeter")

MODEL_FILE = Path(__file__).with_name("microcalcification_model.npz")
_OUTLINE_MM = 1.0
_FINEST_MM, _COARSEST_MM = 0.02, 0.21

MEASURED_STEP = 0.05
FALSE_PER_IMAGE = (
    0.3125, 0.3125, 0.3, 0.225, 0.2125, 0.1875, 0.1625, 0.1375, 0.125, 0.125,
    0.125, 0.1125, 0.1125, 0.1, 0.1, 0.0875, 0.0875, 0.075, 0.0625, 0.025,
)  # fmt: skip
"""False marks an image at thresholds from 0 in steps of MEASURED_STEP, as docs/model-cards/microcalcification.md has
them: on held-out synthetic images, with the preset smallest cluster and largest gap."""


class MicrocalcificationParams(Params):
    """What a user may set."""

    threshold: float = Field(
        0.3, ge=0, le=1, title="Threshold",
        description="Clusters are shown from this score on; lower finds more and marks more that is nothing",
    )  # fmt: skip
    min_calcifications: int = Field(
        3, ge=2, le=20, title="Fewest calcifications", description="A cluster has at least so many calcifications"
    )
    link_mm: float = Field(
        4.0, ge=1, le=10, title="Largest gap",
        description="Neighbours in a cluster are no farther apart than this", json_schema_extra={"unit": "mm"},
    )  # fmt: skip
    pixel_spacing_mm: float | None = Field(
        None, ge=_FINEST_MM, le=_COARSEST_MM, title="Pixel size",
        description="For images whose header has none, such as digitised films", json_schema_extra={"unit": "mm"},
    )  # fmt: skip


class Microcalcification:
    """Clusters of microcalcifications on every mammogram of a study."""

    manifest: ClassVar[Manifest] = Manifest(
        id="microcalcification",
        version="1.0.0",
        title="Microcalcification detection",
        description="Marks clusters of microcalcifications on mammograms, each with an id and a score. For research; "
        "no replacement for reading the images.",
        inputs=(
            Input(
                name="images",
                level="study",
                load="images",
                where=(When(attribute="SOPClassUID", op="in", value=[FOR_PRESENTATION, FOR_PROCESSING]),),
            ),
        ),
        outputs=(
            Output(name="marked", kind="SC"),
            Output(name="report", kind="SR"),
            Output(name="marks", kind="PR", optional=True),
            Output(name="key_images", kind="KO", optional=True),
        ),
        resources=Resources(gpu=True, memory_mb=3072, timeout_s=900),
    )
    params: ClassVar[type[Params]] = MicrocalcificationParams

    def run(self, ctx: Context, params: MicrocalcificationParams) -> None:
        """Emit ImageFindings for every image, also without marks; NotAnalysable for what is no mammogram."""
        images = usable(ctx.inputs["images"])
        spacings = [pixel_spacing(image, params) for image in images]
        model = load_model(ctx.backend, ctx.xp)
        for number, (image, spacing) in enumerate(zip(images, spacings, strict=True)):

            def report(share: float, number: int = number) -> None:
                ctx.progress((number + share) / len(images), f"image {number + 1} of {len(images)}")

            report(0.0)
            ctx.emit("marked", analyse(image, spacing, model, params, ctx.xp, ctx.nd, report))


@cache
def load_model(backend: str, xp: Any) -> mammography.Model:
    """The model that comes with this plug-in, on the device of `xp`; kept for the next task of this process."""
    import numpy as np

    from analysis.algorithms import mammography

    del backend  # part of the key: arrays of one device are of no use on another
    with np.load(MODEL_FILE, allow_pickle=False) as arrays:
        return mammography.Model.from_arrays(dict(arrays), xp)


def analyse(
    image: Image, spacing: float, model: mammography.Model, params: MicrocalcificationParams, xp: Any, nd: Any,
    report: Any = lambda share: None,
) -> ImageFindings:  # fmt: skip
    """The findings on one image. spacing: mm per pixel."""
    from analysis.algorithms import clusters, mammography

    found = mammography.detect(
        bright(image), spacing, model, xp, nd, minimum=params.min_calcifications, link=params.link_mm, report=report
    )
    if not found.breast:
        return ImageFindings(image, (), "No breast found, not analysed", (spacing, spacing), analysed=False)
    shown = [cluster for cluster in found.clusters if cluster.score >= params.threshold]
    marks: list[Mark] = []
    count = 0
    for number, cluster in enumerate(shown, 1):
        members = list(cluster.members)
        identifier = f"CL{number}"
        # PS3.3 C.18.6: (column, row), the centre of the first pixel at (0.5, 0.5).
        places = found.points[members][:, ::-1] + 0.5
        marks.append(
            Mark(
                identifier, CLUSTER, "polygon", clusters.outline(places, _OUTLINE_MM / spacing), cluster.score,
                measurements=(Measurement(COUNT, len(members), NO_UNIT),),
            )
        )  # fmt: skip
        for place, member in zip(places, members, strict=True):
            count += 1
            size = Measurement(DIAMETER, round(float(found.diameter[member]), 2), MILLIMETRE)
            score = float(found.probability[member])
            marks.append(Mark(f"MC{count}", CALCIFICATION, "point", place[None], score, identifier, (size,)))
    words = _summary(len(shown), count)
    return ImageFindings(image, tuple(marks), words, (spacing, spacing), operating_point(params))


def operating_point(params: MicrocalcificationParams) -> OperatingPoint:
    """The threshold with what it costs: measured at the next lower step, so never promised too little."""
    preset = MicrocalcificationParams.model_validate({})
    if (params.min_calcifications, params.link_mm) != (preset.min_calcifications, preset.link_mm):
        return OperatingPoint(params.threshold, None, "Not measured for these clusters")
    step = min(int(params.threshold / MEASURED_STEP + 1e-9), len(FALSE_PER_IMAGE) - 1)
    return OperatingPoint(params.threshold, FALSE_PER_IMAGE[step], "On synthetic test images")


def _summary(clusters: int, calcifications: int) -> str:
    if clusters == 0:
        return "No calcification clusters found"
    return f"{clusters} cluster{'s' if clusters > 1 else ''}, {calcifications} calcifications"


def bright(image: Image) -> Any:
    """The pixels with dense tissue high, whatever the Photometric Interpretation."""
    if not image.inverted:
        return image.data
    import numpy as np

    return np.float32(image.data.max()) - image.data.astype(np.float32)


def pixel_spacing(image: Image, params: MicrocalcificationParams) -> float:
    """mm per pixel from the header or else the parameter. Raises NotAnalysable in words where neither serves."""
    if image.spacing is None:
        if params.pixel_spacing_mm is None:
            raise NotAnalysable(
                "an image does not say how large its pixels are: give the pixel size (pixel_spacing_mm)"
            )
        return params.pixel_spacing_mm
    down, across = image.spacing
    if abs(down - across) > 0.02 * max(down, across):
        raise NotAnalysable(f"the pixels are not square ({down:g} by {across:g} mm)")
    spacing = math.sqrt(down * across)
    if not _FINEST_MM <= spacing <= _COARSEST_MM:
        raise NotAnalysable(
            f"pixels of {spacing:.3g} mm: microcalcifications need {_FINEST_MM:g} to {_COARSEST_MM:g} mm"
        )
    return spacing


def usable(images: Sequence[Image]) -> list[Image]:
    """The images to analyse: no tomosynthesis, and of a pair For Processing / For Presentation only the latter."""
    flat = [image for image in images if image.frame_number is None and _sop_class(image) not in TOMOSYNTHESIS]
    if not flat:
        if images:
            raise NotAnalysable("multi-frame mammograms (tomosynthesis) are not analysed")
        raise NotAnalysable("there is no image to analyse")
    shown = {_exposure(image) for image in flat if _sop_class(image) == FOR_PRESENTATION}
    return [image for image in flat if _sop_class(image) != FOR_PROCESSING or _exposure(image) not in shown]


def _exposure(image: Image) -> tuple[str, ...]:
    """What both images of a pair have in common: side, view, and when they were taken where that is said."""
    return tuple(_text(image.attributes, tag) for tag in ("00200062", "00185101", "00080022", "00080032"))


def _sop_class(image: Image) -> str:
    return _text(image.attributes, "00080016")


def _text(attributes: Mapping[str, Any], tag: str) -> str:
    values = attributes.get(tag, {}).get("Value") or [""]
    return str(values[0] if values[0] is not None else "")


plugin = Microcalcification()
