"""Owns where bone begins: a start from the histogram, then the half maximum of the edges that are there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any  # of NumPy or CuPy, whichever xp and nd are

HISTOGRAM_RANGE_HU = (-1024.0, 3072.0)
BINS = 256
BONE_RANGE_HU = (150.0, 700.0)
"""Where a threshold between soft tissue and bone can lie."""


def histogram(values: Array, xp: Any = np) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Counts (256) of an integer volume over the sane range of Hounsfield units, values beyond it in the end bins, and
    bin centres (256) HU. Slice by slice, so that no copy of the volume is made."""
    low, high = HISTOGRAM_RANGE_HU
    width = (high - low) / BINS
    counts = xp.zeros(BINS, xp.int64)
    for plane in values:
        bins = xp.clip(xp.floor((plane.astype(xp.float32) - low) / width), 0, BINS - 1).astype(xp.int32)
        counts += xp.bincount(bins.reshape(-1), minlength=BINS)
    host = counts.get() if hasattr(counts, "get") else counts
    return np.asarray(host, np.int64), np.asarray(low + (np.arange(BINS) + 0.5) * width, np.float64)


def multi_otsu(counts: npt.NDArray[np.int64], centres: npt.NDArray[np.float64], classes: int) -> list[float]:
    """The classes - 1 thresholds that make the variance between classes greatest (Otsu 1979; Liao 2001), by dynamic
    programming over bin intervals. A threshold lies between the last bin of a class and the first of the next."""
    weight = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    moment = np.concatenate([[0.0], np.cumsum(counts * centres, dtype=np.float64)])
    mass = weight[None, :] - weight[:, None]
    total = moment[None, :] - moment[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(mass > 0, total**2 / mass, 0.0)  # of one class made of bins [i, j)
    gain[np.tril_indices(len(weight), 0)] = -np.inf
    best, cuts = gain[0].copy(), []
    for _ in range(classes - 1):
        table = best[:, None] + gain
        cuts.append(table.argmax(axis=0))
        best = table.max(axis=0)
    end, thresholds = len(counts), []
    for cut in reversed(cuts):
        end = int(cut[end])
        thresholds.append(float((centres[end - 1] + centres[end]) / 2))
    return thresholds[::-1]


def first_guess(values: Array, xp: Any = np) -> float:
    """A threshold in HU that finds bone, by the histogram of an integer HU volume: rough, since few voxels are bone."""
    counts, centres = histogram(values, xp)
    counts[:1] = 0  # padding outside the field of view
    low, high = BONE_RANGE_HU
    candidates = [t for t in multi_otsu(counts, centres, 4) if low <= t <= high]
    return candidates[0] if candidates else 300.0


def half_maximum(
    values: Array,
    mask: Array,
    guess: float,
    xp: Any,
    nd: Any,
    step: int = 1,
    limits: tuple[float, float] = BONE_RANGE_HU,
) -> float:
    """The value in HU halfway up the edges between bone and its surroundings.

    For each voxel on the boundary of `mask`, the middle between the highest and the lowest value within three voxels;
    of these the median, since one bone is denser than another. Edges towards air (under -300 HU nearby) are left out
    while there are enough others, since no single value is right for both; a dry skull has no others. `step` takes
    every n-th slice as a sample; `limits` bound the result, `guess` is the answer where there is no boundary.
    """
    soft, every = [], []
    for k in range(0, values.shape[0], step):
        inside = mask[k]
        boundary = inside & ~nd.binary_erosion(inside, border_value=1)
        if not bool(boundary.any()):
            continue
        low = nd.minimum_filter(values[k], size=7)[boundary].astype(xp.float32)
        high = nd.maximum_filter(values[k], size=7)[boundary].astype(xp.float32)
        middle = (low + high) / 2
        every.append(middle)
        soft.append(middle[low > -300])
    if not every:
        return guess
    chosen, edges = xp.concatenate(soft), xp.concatenate(every)
    if 5 * len(chosen) < len(edges):
        chosen = edges
    return float(np.clip(float(xp.median(chosen)), *limits))
