"""Owns marching cubes as plain array code: the same lines run on NumPy and CuPy.

The case table is generated here, not taken from a list: on every face of a cell the inside corners stay separated,
which both cells of a shared face decide alike, so the surface of any volume is closed where it stays in the array.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any  # of NumPy or CuPy, whichever xp and nd are

_CORNERS = tuple((z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1))  # corner k is bit k of a case
_EDGES = tuple(
    (a, b)
    for a, b in combinations(range(8), 2)
    if sum(p != q for p, q in zip(_CORNERS[a], _CORNERS[b], strict=True)) == 1
)


def _faces() -> list[list[int]]:
    """The four corners of each of the six faces, counter-clockwise as seen from outside (axes z, y, x)."""
    faces = []
    for axis in range(3):
        u, v = (other for other in range(3) if other != axis)
        order = [(0, 0), (0, 1), (1, 1), (1, 0)]
        for side in (0, 1):
            corners = [k for k in range(8) if _CORNERS[k][axis] == side]
            corners.sort(key=lambda k: order.index((_CORNERS[k][u], _CORNERS[k][v])))
            faces.append(corners if (side == 1) != (axis == 1) else corners[::-1])
    return faces


def _triangles(case: int, faces: list[list[int]]) -> list[tuple[int, int, int]]:
    """The triangles of one case as triples of edge numbers."""
    number = {edge: i for i, edge in enumerate(_EDGES)}

    def inside(corner: int) -> bool:
        return bool(case >> corner & 1)

    def edge(a: int, b: int) -> int:
        return number[(a, b) if a < b else (b, a)]

    following: dict[int, int] = {}
    for corners in faces:
        # Walking a face counter-clockwise, a segment runs from the crossing where the inside is left to the one where
        # that same run of inside corners was entered: inside corners across a diagonal stay apart.
        for i in range(4):
            if inside(corners[i]) or not inside(corners[(i + 1) % 4]):
                continue
            j = (i + 1) % 4
            while inside(corners[(j + 1) % 4]):
                j = (j + 1) % 4
            following[edge(corners[j], corners[(j + 1) % 4])] = edge(corners[i], corners[(i + 1) % 4])
    triangles: list[tuple[int, int, int]] = []
    seen: set[int] = set()
    for start in following:
        if start in seen:
            continue
        loop = [start]
        while following[loop[-1]] != start:
            loop.append(following[loop[-1]])
        seen.update(loop)
        triangles += [(loop[0], loop[i], loop[i + 1]) for i in range(1, len(loop) - 1)]
    return triangles


def _table() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """Number of triangles per case, and their edges (256, most, 3)."""
    faces = _faces()
    rows = [_triangles(case, faces) for case in range(256)]
    table = np.zeros((256, max(map(len, rows)), 3), np.int8)
    for case, row in enumerate(rows):
        if row:
            table[case, : len(row)] = row
    return np.array([len(row) for row in rows], np.int64), table


_COUNT, _TABLE = _table()
_EDGE_AXIS = np.array([next(i for i in range(3) if _CORNERS[a][i] != _CORNERS[b][i]) for a, b in _EDGES])


def marching_cubes(values: Array, iso: float, xp: Any = np) -> tuple[Array, Array]:
    """The surface where `values` (z, y, x) crosses `iso`, inside being above it.

    Returns vertices (n, 3) float32 in index units (z, y, x), welded, and faces (m, 3) int32. Seen in a right-handed
    frame of (x, y, z) the winding is inward; `geometry.outward` settles it once in patient space. Closed unless the
    surface leaves the array. No vertex lies on a grid point if no value equals `iso`.
    """
    depth, height, width = values.shape
    strides = (height * width, width, 1)
    inside = values > iso
    flat = values.reshape(-1)
    vertices, keys, base, total = [], [], [], 0
    for axis in range(3):  # one vertex per grid edge that crosses, found per axis so that keys are sorted
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        z, y, x = xp.nonzero(inside[low] != inside[high])
        key = (z * height + y) * width + x
        first, second = flat[key].astype(xp.float32), flat[key + strides[axis]].astype(xp.float32)
        point = xp.stack([z, y, x], 1).astype(xp.float32)
        point[:, axis] += (xp.float32(iso) - first) / (second - first)
        vertices.append(point)
        keys.append(key)
        base.append(total)
        total += len(key)
    case = xp.zeros((depth - 1, height - 1, width - 1), xp.uint8)
    for bit, (dz, dy, dx) in enumerate(_CORNERS):
        corner = inside[dz : depth - 1 + dz, dy : height - 1 + dy, dx : width - 1 + dx]
        case |= corner.astype(xp.uint8) << bit
    active = xp.flatnonzero((case != 0) & (case != 255))
    cases = case.reshape(-1)[active]
    count = xp.asarray(_COUNT)[cases]
    cell = xp.repeat(active, count)
    within = xp.arange(len(cell)) - xp.repeat(xp.cumsum(count) - count, count)
    edges = xp.asarray(_TABLE)[xp.repeat(cases, count), within]
    layer = (height - 1) * (width - 1)
    z, rest = cell // layer, cell % layer
    corner_key = (z * height + rest // (width - 1)) * width + rest % (width - 1)
    offset = xp.asarray(np.array([np.dot(_CORNERS[a], strides) for a, _ in _EDGES]))
    edge_axis = xp.asarray(_EDGE_AXIS)
    faces = xp.empty(edges.shape, xp.int32)
    for column in range(3):
        edge = edges[:, column]
        key, axis_of = corner_key + offset[edge], edge_axis[edge]
        index = xp.empty(len(edge), xp.int64)
        for axis in range(3):
            here = axis_of == axis
            index[here] = base[axis] + xp.searchsorted(keys[axis], key[here])
        faces[:, column] = index
    return xp.concatenate(vertices), faces
