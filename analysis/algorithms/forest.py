"""Adds up boosted decision trees kept as plain arrays: inference needs no scikit-learn and runs on either device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK = 1024


@dataclass(frozen=True)
class Forest:
    """Trees of one classifier, nodes of all trees in one row of arrays.

    feature: int16, -1 in a leaf. threshold: float32; a sample goes left where its value is <= threshold. left: int32
    index of the left child, the right child follows it. value: float32, log odds that a leaf adds. roots: int32, first
    node of each tree. depth: the longest path. bias: log odds before any tree.
    """

    feature: Any
    threshold: Any
    left: Any
    value: Any
    roots: Any
    depth: int
    bias: float

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], prefix: str, xp: Any) -> Forest:
        """The forest kept under `prefix` of a model file; raises KeyError where a part is missing."""
        names = ("feature", "threshold", "left", "value", "roots")
        part = {name: np.asarray(arrays[f"{prefix}{name}"]) for name in names}
        return cls(
            feature=xp.asarray(part["feature"].astype(np.int16)),
            threshold=xp.asarray(part["threshold"].astype(np.float32)),
            left=xp.asarray(part["left"].astype(np.int32)),
            value=xp.asarray(part["value"].astype(np.float32)),
            roots=xp.asarray(part["roots"].astype(np.int32)),
            depth=int(arrays[f"{prefix}depth"]),
            bias=float(arrays[f"{prefix}bias"]),
        )

    def probability(self, samples: Any, xp: Any) -> Any:
        """Probability of the positive class for each row of `samples` (n, features): float32 (n,)."""
        out = []
        for start in range(0, len(samples), CHUNK):
            rows = xp.asarray(samples[start : start + CHUNK], dtype=xp.float32)
            index = xp.broadcast_to(self.roots, (len(rows), self.roots.size)).copy()
            line = xp.arange(len(rows))[:, None]
            for _ in range(self.depth):
                feature = self.feature[index]
                inner = feature >= 0
                goes_right = rows[line, xp.maximum(feature, 0)] > self.threshold[index]
                index = xp.where(inner, self.left[index] + goes_right, index)
            out.append(1 / (1 + xp.exp(-xp.clip(self.value[index].sum(axis=1) + self.bias, -30, 30))))
        return xp.concatenate(out).astype(xp.float32) if out else xp.zeros(0, dtype=xp.float32)
