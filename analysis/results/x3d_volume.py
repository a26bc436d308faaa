"""Owns volumes as X3D 4.0 (ISO/IEC 19775-1, VolumeRendering component): 8-bit voxels in mm of the patient, in one file.

The profile is MedicalInterchange. Voxels hold how opaque each place is, worked out beforehand, as NRRD inside the file,
so that no second request and no transfer function is needed. Nothing is written that names a patient.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from analysis.results import x3d

PROFILE = "MedicalInterchange"


def scene(
    title: str,
    opacity: npt.NDArray[np.uint8],
    origin: npt.NDArray[np.float64],
    spacing: tuple[float, float, float],
    colour: tuple[int, int, int],
    facts: Mapping[str, Sequence[str]],
) -> Iterator[bytes]:
    """The scene as pieces of a UTF-8 document.

    opacity: (slices, rows, columns) along +z, +y, +x of the patient, 255 where nothing shines through. origin: mm
    (x, y, z) of the centre of the first voxel. spacing: mm along x, y and z. colour: sRGB of what is seen. ValueError
    for a volume of fewer than two slices, rows or columns.
    """
    if min(opacity.shape) < 2:
        raise ValueError("a volume needs at least two voxels in every direction")
    step = np.asarray(spacing, np.float64)
    size = step * opacity.shape[::-1]
    low = np.asarray(origin, np.float64) - step / 2
    yield from x3d.opening(title, PROFILE, facts, low, low + size)
    # VolumeData is centred on its origin; texture coordinates (s, t, r) run along x, y, z (41.2.2 of the standard).
    centre, dimensions = (" ".join(map(x3d.number, each)) for each in (low + size / 2, size))
    tint = " ".join(f"{channel / 255:.4g}" for channel in colour)
    yield f"<Transform DEF='Model' translation='{centre}'>\n".encode()
    yield f"<VolumeData DEF='Volume' dimensions='{dimensions}'>\n".encode()
    yield (
        "<ComposedVolumeStyle><OpacityMapVolumeStyle/><ShadedVolumeStyle lighting='true'>"
        f"<Material diffuseColor='{tint}' specularColor='0.1 0.1 0.1'/></ShadedVolumeStyle></ComposedVolumeStyle>\n"
    ).encode()
    yield b"<ImageTexture3D containerField='voxels' url='\"data:application/octet-stream;base64,"
    yield base64.b64encode(nrrd(opacity))
    yield b"\"'/></VolumeData>\n</Transform>\n</Scene>\n</X3D>\n"


def nrrd(voxels: npt.NDArray[np.uint8]) -> bytes:
    """Voxels (slices, rows, columns) as NRRD, packed by gzip; the same voxels give the same bytes."""
    slices, rows, columns = voxels.shape
    head = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: {columns} {rows} {slices}\nencoding: gzip\n\n"
    return head.encode() + gzip.compress(np.ascontiguousarray(voxels).tobytes(), 6, mtime=0)
