"""Judges results of SOP classes younger than the validators of Debian 12: by our own table and an independent reader.

python tests/younger_results.py OTHER FILE...     OTHER: any result of the same task, of whose study they have to be

Label Map Segmentation is read by highdicom, Encapsulated OBJ and MTL by trimesh. A line for each; the exit status is
the number of errors.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
import trimesh
from pydicom import Dataset, dcmread
from trimesh.visual.material import SimpleMaterial

from analysis.results.checks import attributes, images, payloads, references

_PREFIX = "1.2.840.10008.5.1.4.1.1."
LABELMAP, OBJ, MTL = _PREFIX + "66.7", _PREFIX + "104.4", _PREFIX + "104.5"


def errors(path: Path, other: Dataset, libraries: dict[str, bytes]) -> Iterator[str]:
    """What is wrong with a file, in words. libraries: the materials by SOP Instance UID."""
    ds = dcmread(path)
    yield from attributes.defects(ds, attributes.Inherited(()))
    yield from images.defects(ds)
    yield from payloads.defects(ds)
    yield from (
        f"{keyword} is not that of the others" for keyword in references.SAME if ds.get(keyword) != other.get(keyword)
    )
    try:
        if ds.SOPClassUID == LABELMAP:
            read = highdicom.seg.segread(path)
            shown = read.get_volume(combine_segments=True).array
            if not set(np.unique(shown)) - {0} <= set(read.segment_numbers):
                yield "highdicom reads a segment that is not described"
        elif ds.SOPClassUID == OBJ:
            yield from _mesh(ds, libraries)
    except Exception as error:
        yield f"the independent reader: {type(error).__name__}: {error}"


def _mesh(ds: Dataset, libraries: dict[str, bytes]) -> Iterator[str]:
    [named] = ds.ReferencedInstanceSequence
    with tempfile.TemporaryDirectory() as folder:
        materials = Path(folder) / named.RelativeURIReferenceWithinEncapsulatedDocument
        materials.write_bytes(libraries[named.ReferencedSOPInstanceUID])
        model = Path(folder) / "model.obj"
        model.write_bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])
        mesh = trimesh.load_mesh(model)
        # Two parts may touch in an edge, which then is of four triangles.
        uses = np.unique(np.sort(mesh.edges, axis=1), axis=0, return_counts=True)[1]
        if (uses % 2).any() or not mesh.is_winding_consistent or mesh.volume <= 0:
            yield "trimesh reads a surface that is not closed, or inside out"
        if not isinstance(mesh.visual.material, SimpleMaterial):
            yield "trimesh finds no material"


def main(arguments: list[str]) -> int:
    """Judge all; how many are wrong."""
    other, *paths = map(Path, arguments)
    found = 0
    read = {path: dcmread(path) for path in paths}
    libraries = {
        str(ds.SOPInstanceUID): bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])
        for ds in read.values()
        if ds.SOPClassUID == MTL
    }
    for path in paths:
        told = list(errors(path, dcmread(other, stop_before_pixels=True), libraries))
        for words in told or ["ok"]:
            print(f"{'younger':11} {path.name:34} {'ERROR: ' if told else ''}{words}")
        found += len(told)
    return min(found, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
