"""Texture of small patches: grey-level co-occurrence (Haralick 1973) and uniform local binary patterns (Ojala 2002)."""

from __future__ import annotations

from typing import Any

LEVELS = 8
GLCM_NAMES = ("glcm_contrast", "glcm_homogeneity", "glcm_energy", "glcm_correlation", "glcm_entropy")
LBP_NAMES = (*(f"lbp_{bits}" for bits in range(9)), "lbp_other")


def glcm(patches: Any, xp: Any) -> Any:
    """Co-occurrence features, float32 (n, 5), of patches (n, rows, columns), averaged over four directions.

    Each patch is quantised to eight levels between its own extremes; neighbours are one element apart; the matrix is
    symmetric. Columns: GLCM_NAMES.
    """
    count = patches.shape[0]
    low = patches.min(axis=(1, 2), keepdims=True)
    high = patches.max(axis=(1, 2), keepdims=True)
    grey = ((patches - low) / xp.maximum(high - low, 1e-9) * LEVELS).astype(xp.int64)
    grey = xp.minimum(grey, LEVELS - 1)
    owner = (xp.arange(count) * LEVELS * LEVELS)[:, None, None]
    pairs = xp.zeros(count * LEVELS * LEVELS, dtype=xp.float32)
    for first, second in (
        (grey[:, :, :-1], grey[:, :, 1:]),
        (grey[:, :-1, :], grey[:, 1:, :]),
        (grey[:, :-1, :-1], grey[:, 1:, 1:]),
        (grey[:, 1:, :-1], grey[:, :-1, 1:]),
    ):
        pairs += xp.bincount((owner + first * LEVELS + second).ravel(), minlength=pairs.size)
    matrix = pairs.reshape(count, LEVELS, LEVELS)
    matrix = matrix + matrix.transpose(0, 2, 1)
    matrix = matrix / xp.maximum(matrix.sum(axis=(1, 2), keepdims=True), 1)
    index = xp.arange(LEVELS, dtype=xp.float32)
    i, j = index[None, :, None], index[None, None, :]
    contrast = (matrix * (i - j) ** 2).sum(axis=(1, 2))
    homogeneity = (matrix / (1 + (i - j) ** 2)).sum(axis=(1, 2))
    energy = (matrix * matrix).sum(axis=(1, 2))
    mean = (matrix * i).sum(axis=(1, 2))
    variance = (matrix * (i - mean[:, None, None]) ** 2).sum(axis=(1, 2))
    covariance = (matrix * (i - mean[:, None, None]) * (j - mean[:, None, None])).sum(axis=(1, 2))
    entropy = -(matrix * xp.log2(xp.maximum(matrix, 1e-12))).sum(axis=(1, 2))
    columns = [contrast, homogeneity, energy, covariance / xp.maximum(variance, 1e-9), entropy]
    return xp.stack(columns, axis=1).astype(xp.float32)


def lbp(patches: Any, xp: Any) -> Any:
    """Share of each rotation-invariant uniform pattern (8 neighbours, radius 1), float32 (n, 10), as LBP_NAMES.

    Column b (0 to 8): b neighbours at least as bright as the centre, in one run; the last column: all other patterns.
    """
    centre = patches[:, 1:-1, 1:-1]
    ring = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
    height, width = patches.shape[1], patches.shape[2]
    bits = [patches[:, 1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx] >= centre for dy, dx in ring]
    ones = xp.zeros(centre.shape, dtype=xp.int8)
    changes = xp.zeros(centre.shape, dtype=xp.int8)
    for index, bit in enumerate(bits):
        ones += bit
        changes += bit != bits[index - 1]
    pattern = xp.where(changes <= 2, ones, 9)
    shares = [(pattern == value).mean(axis=(1, 2)) for value in range(10)]
    return xp.stack(shares, axis=1).astype(xp.float32)
