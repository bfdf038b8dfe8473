"""Boosted trees as flat arrays: all trees of all outputs go down one level at a time, in numpy.

A library's own ``predict`` takes about a millisecond for a single row; this takes some tens of
microseconds, needs no library, and can be stored without pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Forest:
    """One sum of trees per output. A node's children lie side by side; leaves are their own children."""

    feature: Ints
    """Column that a node looks at, shape (nodes,)."""
    threshold: Floats
    """Larger values go right, shape (nodes,)."""
    children: Ints
    """Left and right child of node n at 2n and 2n + 1, shape (2 x nodes,)."""
    value: Floats
    """Of leaves, shape (nodes,)."""
    roots: Ints
    """Root of each tree, those of one output together, shape (trees,)."""
    starts: Ints
    """First tree of each output, shape (outputs,); every output has at least one tree."""
    base: Floats
    """Added to each output, shape (outputs,)."""
    depth: int

    @classmethod
    def compiled(cls, outputs: Sequence[tuple[float, Sequence[Any]]]) -> Self:
        """From scikit-learn's trees: ``(base, node tables in order)`` for each output."""
        tables = [table for _, trees in outputs for table in trees]
        offsets = np.cumsum([0, *map(len, tables)])
        nodes = np.concatenate(tables)
        own = np.arange(len(nodes))
        offset = np.repeat(offsets[:-1], [len(table) for table in tables])
        leaf = nodes["is_leaf"].astype(bool)
        left = np.where(leaf, own, nodes["left"].astype(np.int64) + offset)
        right = np.where(leaf, own, nodes["right"].astype(np.int64) + offset)
        counts = [len(trees) for _, trees in outputs]
        return cls(
            feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
            threshold=np.where(leaf, np.inf, nodes["num_threshold"]).astype(np.float64),
            children=np.column_stack((left, right)).astype(np.int32).ravel(),
            value=np.where(leaf, nodes["value"], 0.0).astype(np.float64),
            roots=offsets[:-1].astype(np.int32),
            starts=np.cumsum([0, *counts[:-1]]).astype(np.int32),
            base=np.array([base for base, _ in outputs]),
            depth=int(nodes["depth"].max()),
        )

    def predict(self, row: Floats) -> Floats:
        """Outputs for one row of finite columns, shape (outputs,)."""
        at = self.roots
        for _ in range(self.depth):
            right = row.take(self.feature.take(at)) > self.threshold.take(at)
            at = self.children.take(2 * at + right)
        sums: Floats = np.add.reduceat(self.value.take(at), self.starts)
        return sums + self.base
