"""A study with true results: a CT phantom, and what the bone surface plug-in makes of it, as finished objects."""

from __future__ import annotations

from datetime import UTC, datetime

from pydicom import Dataset

from analysis.evaluation import ct_phantom
from analysis.kit.context import LocalContext
from analysis.plugins.bone_surface import BoneSurfaceParams, plugin
from analysis.results import provenance
from analysis.results.encode import encode
from analysis.results.provenance import RunInfo


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
