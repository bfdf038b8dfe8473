"""Splits examples so that what belongs together stays together: conversations and duplicate prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from block.errors import PackError

Ints = npt.NDArray[np.intp]

HELD_OUT_PARTS: Final = 7


def groups_of(keys: Sequence[tuple[str, ...]]) -> Ints:
    """Number of each example's group, shape (examples,): those that share a key, directly or by others."""
    parent: list[int] = list(range(len(keys)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first: dict[str, int] = {}
    for i, own in enumerate(keys):
        for key in own:
            parent[root(i)] = root(first.setdefault(key, i))
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(i), len(numbers)) for i in range(len(keys))], dtype=np.intp)


def folds_of(groups: Ints, folds: int, seed: int) -> Ints:
    """Fold of each example, shape (examples,), about equally many in each; no group is divided.

    Raises PackError if there are fewer groups than folds.
    """
    sizes = np.bincount(groups)
    if len(sizes) < folds:
        raise PackError(f"{len(sizes)} independent prompts cannot be split into {folds} parts")
    random = np.random.default_rng(seed)
    loads = np.zeros(folds)
    fold_of_group = np.zeros(len(sizes), dtype=np.intp)
    order = random.permutation(len(sizes))
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold = int(np.argmin(loads))
        fold_of_group[group] = fold
        loads[fold] += sizes[group]
    return fold_of_group[groups]


def held_out(groups: Ints, seed: int) -> npt.NDArray[np.bool_]:
    """Which examples a training keeps for stopping and calibrating, shape (examples,): one seventh."""
    mask: npt.NDArray[np.bool_] = folds_of(groups, HELD_OUT_PARTS, seed) == 0
    return mask
