"""Robust least squares within bounds, for the handful of terms a step time is made of.

Errors are relative, so short steps count as much as long ones; a Huber loss keeps pauses from pulling.
Knows nothing of steps: rows are rows. Small dense problems only (tens of terms, thousands of rows).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HUBER = 1.345
"""Residuals beyond this many noise scales count linearly; the usual 95 % efficiency under normal noise."""
LARGEST_NOISE = 0.03
"""A larger misfit is taken for a wrong start, not for noise, and does not make expectations any firmer."""
_SMALLEST_SCALE = 0.002
_FEWEST_IN_A_GROUP, _FEW_IN_A_GROUP = 3, 8
_MEDIAN_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class Bounds:
    """Per term: where it may lie, what is expected of it, and how firmly."""

    lower: Floats
    upper: Floats
    expected: Floats
    firmness: Floats
    """Symmetric (terms, terms): the penalty on the distance from what is expected, in units of the noise."""

    @classmethod
    def non_negative(cls, terms: int) -> Self:
        """No expectation but a sign; the tiny firmness only keeps unseen terms at zero."""
        zeros = np.zeros(terms)
        return cls(zeros, np.full(terms, np.inf), zeros, np.eye(terms) * 1e-9)


def solve_within(gram: Floats, moment: Floats, lower: Floats, upper: Floats) -> Floats:
    """The x within bounds that minimises x'Gx/2 - m'x, for a positive semidefinite G.

    An active-set method: terms are pinned where they leave their bounds and freed, worst first, where
    the gradient points back inside.
    """
    terms = len(moment)
    # Rows that say nothing apart from one another leave G singular; this keeps it solvable.
    gram = gram + 1e-11 * np.trace(gram) * np.eye(terms)
    pinned = np.zeros(terms, dtype=bool)
    x = np.clip(np.zeros(terms), lower, upper)
    for _ in range(3 * terms + 10):
        x = _solve_free(gram, moment, x, pinned)
        outside = ~pinned & ((x < lower) | (x > upper))
        if outside.any():
            x = np.clip(x, lower, upper)
            pinned |= outside
            continue
        inward = _pull(gram @ x - moment, x, lower, upper, pinned)
        worst = int(np.argmax(inward))
        if inward[worst] <= 1e-9 * max(1.0, float(np.abs(moment).max())):
            break
        pinned[worst] = False
    return np.clip(x, lower, upper)


def fit_relative(
    rows: Floats,
    seconds: Floats,
    bounds: Bounds,
    start: Floats,
    weights: Floats | None = None,
    groups: Ints | None = None,
    rounds: int = 4,
) -> tuple[Floats, float]:
    """Terms that explain ``seconds`` (rows,) by ``rows`` (rows, terms), and the relative noise left.

    ``start`` are terms to begin from, the closer the fewer ``rounds`` of reweighting; ``weights`` (rows,)
    say how much each row counts. ``groups`` (rows,) number what is of a kind: what a whole group misses by
    is a wrong start and pulls in full; only what a row differs by from its group is distrusted.
    """
    terms, base = start, np.ones(len(seconds)) if weights is None else weights
    scale = 1.0
    for _ in range(rounds):
        predicted = rows @ terms
        # Dividing by a prediction rather than by the measurement keeps noise from biasing the fit low.
        unit = np.clip(predicted, seconds / 4, seconds * 4)
        residual = np.abs(_apart((seconds - predicted) / unit, groups))
        scale = max(_MEDIAN_TO_SIGMA * float(np.median(residual)), _SMALLEST_SCALE)
        trust = base * np.minimum(1.0, HUBER * scale / np.maximum(residual, 1e-12)) / unit**2
        weighted = rows * trust[:, None]
        firmness = bounds.firmness * min(scale, LARGEST_NOISE) ** 2
        gram = rows.T @ weighted + firmness
        moment = weighted.T @ seconds + firmness @ bounds.expected
        terms = solve_within(gram, moment, bounds.lower, bounds.upper)
    return terms, scale


def _apart(misses: Floats, groups: Ints | None) -> Floats:
    """Misses less the middle of their group; of groups too small to have one, as they are.

    Pauses make steps longer, never shorter: of a few steps, one below the middle is taken.
    """
    if groups is None:
        return misses
    order = np.lexsort((misses, groups))
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    count = np.diff(first, append=len(order))
    middle = np.maximum((count - 1) // 2 - (count < _FEW_IN_A_GROUP), 0)
    centre = np.where(count >= _FEWEST_IN_A_GROUP, misses[order][first + middle], 0.0)
    apart = np.empty_like(misses)
    apart[order] = misses[order] - np.repeat(centre, count)
    return apart


def _solve_free(gram: Floats, moment: Floats, x: Floats, pinned: npt.NDArray[np.bool_]) -> Floats:
    if not pinned.any():
        return np.asarray(np.linalg.solve(gram, moment))
    free = ~pinned
    solved = x.copy()
    if free.any():
        rest = moment[free] - gram[np.ix_(free, pinned)] @ x[pinned]
        solved[free] = np.linalg.solve(gram[np.ix_(free, free)], rest)
    return solved


def _pull(gradient: Floats, x: Floats, lower: Floats, upper: Floats, pinned: npt.NDArray[np.bool_]) -> Floats:
    """How strongly each pinned term is drawn back inside; below zero for the others."""
    inward = np.where(x <= lower, -gradient, np.where(x >= upper, gradient, -np.inf))
    return np.where(pinned, inward, -np.inf)
