"""Owns the plug-in that turns a CT series into surfaces of bone and teeth: what it takes, emits and lets a user set.

A server loads this; how it is done (`bone_surface_run`) is loaded where it runs.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from analysis.api import Context, Input, Manifest, Output, Params, Resources, When


class BoneSurfaceParams(Params):
    """What a user may set."""

    threshold_hu: float | None = Field(
        default=None, ge=-500, le=3000, title="Threshold",
        description="Bone is what is denser than this; left out, it is found from the image",
        json_schema_extra={"unit": "[hnsf'U]"},
    )  # fmt: skip
    smoothing_voxels: float = Field(
        default=0.7, ge=0, le=3, title="Smoothing",
        description="Width of the Gaussian against noise, in pixels of a slice",
        json_schema_extra={"unit": "{pixels}"},
    )  # fmt: skip
    error_mm: float | None = Field(
        default=None, ge=0.01, le=2, title="Surface error",
        description="How far fewer triangles may move the surface; left out, 0.1 mm or a tenth of the slice gap",
        json_schema_extra={"unit": "mm"},
    )  # fmt: skip
    min_component_ml: float = Field(
        default=0.2, ge=0, le=1000, title="Smallest piece",
        description="Separate pieces below this volume are left out",
        json_schema_extra={"unit": "ml"},
    )  # fmt: skip
    separate_teeth: bool = Field(
        default=True, title="Separate teeth",
        description="Teeth become a label of their own where they can be told from bone",
    )  # fmt: skip
    max_triangles: int = Field(
        default=120_000, ge=1_000, le=1_000_000, title="Most triangles",
        description="More than this loosen the surface error; the report says how far",
    )  # fmt: skip
    views: int = Field(
        default=24, ge=0, le=72, title="Views around",
        description="Pictures of the turntable; with 0 neither it nor the volume to look at is made",
    )  # fmt: skip


class BoneSurface:
    """Bone (and teeth) of a CT as labels, closed surfaces and measurements."""

    manifest: ClassVar[Manifest] = Manifest(
        id="bone-surface",
        version="1.1.0",
        title="Bone surface",
        description="Bone and teeth of a CT series as labelled volumes, 3D models and measurements.",
        inputs=(
            Input(
                name="series",
                level="series",
                load="volume",
                where=(When(attribute="Modality", op="eq", value="CT"),),
                min_instances=10,
            ),
        ),
        outputs=(
            Output(name="labels", kind="SEG"),
            Output(name="surfaces", kind="M3D"),
            Output(name="report", kind="SR"),
            Output(name="pictures", kind="SC", optional=True),
        ),
        resources=Resources(gpu=True, memory_mb=4096, timeout_s=900),
    )
    params: ClassVar[type[Params]] = BoneSurfaceParams

    def run(self, ctx: Context, params: BoneSurfaceParams) -> None:
        """Emit a LabelMap, a Surface per label and a VolumeReport; NotAnalysable where there is too little bone."""
        from analysis.plugins import bone_surface_run

        bone_surface_run.run(ctx, params)


plugin = BoneSurface()
