"""A study with true results: a CT phantom, and what the bone surface plug-in makes of it, as finished objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import scipy.ndimage
from pydicom import Dataset

from analysis.api import Emitted
from analysis.evaluation import ct_phantom
from analysis.plugins.bone_surface import BoneSurfaceParams, plugin
from analysis.results import provenance
from analysis.results.encode import encode
from analysis.results.provenance import RunInfo


@dataclass
class Host:
    """What a plug-in needs of its host, kept in a list."""

    inputs: Mapping[str, Any]
    xp: Any = np
    nd: Any = scipy.ndimage
    backend: str = "numpy"
    emitted: list[tuple[str, Emitted]] = field(default_factory=list)

    def progress(self, fraction: float, message: str = "") -> None:
        pass

    def emit(self, output: str, value: Emitted) -> None:
        self.emitted.append((output, value))


def study_with_results(size: int = 40) -> tuple[list[Dataset], list[Dataset]]:
    """The images, and the results of one run on them."""
    scan = ct_phantom.volume(ct_phantom.Phantom(0.7), size, 67.2 / size, "upright")
    host = Host({"series": scan})
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
