"""Grows forests with scikit-learn, in a process of its own: nothing of that library stays behind.

    python -m vidur_adapter.tree_growth < SAMPLES > TREES

Arrays in and out (``array_list``): shapes and values of each forest to grow, then the four of its ``Trees``.
Importing scikit-learn alone takes 105 MB, ten times as much as all the trees of a model.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from block.latency.least_squares import Floats
from vidur_adapter.array_list import packed, unpacked
from vidur_adapter.trees import LEAF, Trees

_TREES = 30


def grown(shapes: Floats, values: Floats) -> Trees:
    """scikit-learn's random forest, in the form that is kept."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=_TREES, random_state=0).fit(shapes, values)
    return Trees.joined([_kept(tree.tree_) for tree in forest.estimators_])


def _kept(tree: Any) -> Trees:
    leaf = tree.feature < 0
    return Trees(
        np.where(leaf, LEAF, tree.feature).astype(np.int8),
        np.where(leaf, tree.value[:, 0, 0], _rounded_down(tree.threshold)).astype(np.float32),
        tree.children_right.astype(np.int32),
        np.zeros(1, dtype=np.int32),
    )


def _rounded_down(thresholds: Floats) -> Floats:
    """To 32 bits, in which shapes are compared: they lie on the same sides as before."""
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def main() -> None:
    """Standard input to standard output."""
    samples = unpacked(sys.stdin.buffer.read())
    forests = [grown(*pair) for pair in zip(samples[::2], samples[1::2], strict=True)]
    sys.stdout.buffer.write(packed(array for trees in forests for array in trees.arrays))


if __name__ == "__main__":
    main()
