"""How far quantiles must be shifted to have covered, as they say, what has been seen.

Knows nothing of requests. After Romano, Patterson and Candes, "Conformalized quantile regression", 2019;
where responses were cut at a limit, after Kaplan and Meier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def conformal_shifts(residuals: Floats, levels: Floats) -> Floats:
    """Each level's quantile of its column; residuals (n, levels) -> (levels,).

    At position level x (n + 1), which makes the next response fall below with that probability.
    """
    count = len(residuals)
    ordered = np.sort(residuals, axis=0)
    position = np.clip(levels * (count + 1) - 1, 0, count - 1)
    below = position.astype(np.intp)
    above = np.minimum(below + 1, count - 1)
    columns = np.arange(len(levels))
    low, high = ordered[below, columns], ordered[above, columns]
    shifts: Floats = low + (position - below) * (high - low)
    return shifts


def censored_shifts(residuals: Floats, cut: Flags, levels: Floats) -> Floats:
    """The same where the responses ``cut``, shape (n,), would have gone on: their residuals are bounds.

    What lies beyond the responses that ended is unknown. There nothing is shifted down, and up only as
    far as something has been seen to go.
    """
    columns = (_quantile(column, cut, level) for column, level in zip(residuals.T, levels, strict=True))
    return np.array(list(columns))


def shifts_for(residuals: Floats, cut: Flags, levels: Sequence[float]) -> Floats:
    """Whichever of the two is for these responses."""
    if cut.any():
        return censored_shifts(residuals, cut, np.array(levels))
    return conformal_shifts(residuals, np.array(levels))


def informative(residuals: Floats, cut: Flags) -> Floats:
    """How many responses say where each level lies, shape (levels,): those that ended, or went beyond it."""
    counts: Floats = (~cut[:, None] | (residuals > 0)).sum(axis=0).astype(np.float64)
    return counts


def median_of(values: Floats, cut: Flags) -> float:
    """Of values that are bounds where ``cut``; the same shape. The largest one if the median is beyond it."""
    if not cut.any():
        return float(np.median(values))
    reached = _survival(values, cut)
    return float(np.sort(values)[min(int(np.searchsorted(-reached, -0.5)), len(values) - 1)])


def _survival(values: Floats, cut: Flags) -> Floats:
    """Share that goes on beyond each value, in rising order, shape (n,); after Kaplan and Meier."""
    order = np.lexsort((cut, values))  # of equal ones, those that ended come first
    beyond: Floats = np.cumprod(1 - ~cut[order] / np.arange(len(values), 0, -1))
    return beyond


def _quantile(residuals: Floats, cut: Flags, level: float) -> float:
    order = np.lexsort((cut, residuals))
    reached = 1 - _survival(residuals, cut)
    residuals, ended = residuals[order], ~cut[order]
    count = len(residuals)
    known = reached[ended] * count / (count + 1)
    if len(known) == 0 or (level > known[-1] and not ended[-1]):
        return max(0.0, float(residuals[-1]))
    return float(np.interp(level, known, residuals[ended]))
