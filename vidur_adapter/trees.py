"""Regression trees as flat arrays: all that is kept of a forest once it has grown.

Node after node, tree after tree. A split's left child is the node after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from block.latency.least_squares import Floats
from vidur_adapter.array_list import Array

LEAF = -1


@dataclass(frozen=True, slots=True)
class Trees:
    """One or more, nine bytes per node."""

    axis: npt.NDArray[np.int8]
    """Along which a node splits; -1 for a leaf."""
    value: npt.NDArray[np.float32]
    """Up to which a split goes left; what a leaf answers."""
    right: npt.NDArray[np.int32]
    """A split's right child."""
    roots: npt.NDArray[np.int32]
    """Each tree's first node."""

    @classmethod
    def joined(cls, trees: Sequence[Trees]) -> Self:
        """One after the other."""
        starts = np.cumsum([0, *(len(each.axis) for each in trees[:-1])], dtype=np.int32)
        placed = list(zip(trees, starts, strict=True))
        return cls(
            np.concatenate([each.axis for each in trees]),
            np.concatenate([each.value for each in trees]),
            np.concatenate([each.right + start for each, start in placed]),
            np.concatenate([each.roots + start for each, start in placed]),
        )

    @property
    def arrays(self) -> tuple[Array, ...]:
        """In the order in which they make trees again."""
        return self.axis, self.value, self.right, self.roots

    def mean(self, shapes: Floats) -> Floats:
        """What the trees answer on average; ``shapes`` is (shapes, axes)."""
        asked, trees = shapes.astype(np.float32), len(self.roots)
        nodes, rows = np.repeat(self.roots, len(asked)), np.tile(np.arange(len(asked)), trees)
        while True:
            (open_,) = np.nonzero(self.axis[nodes] != LEAF)
            if not len(open_):
                return np.asarray(self.value[nodes].reshape(trees, -1).mean(axis=0, dtype=np.float64))
            at = nodes[open_]
            left = asked[rows[open_], self.axis[at]] <= self.value[at]
            nodes[open_] = np.where(left, at + 1, self.right[at])
