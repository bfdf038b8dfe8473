"""Quantiles of a response's length: the levels that trained estimators give, order, limits and mean.

Works on plain numbers, since it runs for every request. Knows nothing of where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Both ends of an 80 % interval, and enough between them for eight scenarios."""

Quantiles = tuple[tuple[float, float], ...]


def within(tokens: Sequence[float], most: float) -> tuple[float, ...]:
    """The same in rising order, each at least one token and at most ``most``.

    What is not a number, which a damaged model may say, counts as ``most``.
    """
    known = [most if math.isnan(value) else min(max(value, 1.0), most) for value in tokens]
    return tuple(sorted(known))


def mean_of(levels: Sequence[float], tokens: Sequence[float], most: float) -> float:
    """Mean of ``min(length, most)`` under the distribution through these quantiles.

    Straight lines between the quantiles; below the first one down to half of it, as
    ``block.lengths`` has it; beyond the last one an exponential tail through the median.
    """
    if tokens[0] == tokens[-1]:
        return min(tokens[0], most)
    total, start, below = 0.0, 0.5 * tokens[0], 0.0
    for level, end in zip(levels, tokens, strict=True):
        total += (level - below) * _mean_between(start, end, most)
        start, below = end, level
    rest = 1.0 - levels[-1]
    middle = next(i for i, level in enumerate(levels) if level >= 0.5 or i == len(levels) - 1)
    scale = (tokens[-1] - tokens[middle]) / math.log(max(1.0 - levels[middle], 1e-9) / rest) if rest else 0.0
    tail = scale * (1.0 - math.exp(-max(most - tokens[-1], 0.0) / scale)) if scale > 0 else 0.0
    return total + rest * min(tokens[-1] + tail, most)


def _mean_between(low: float, high: float, most: float) -> float:
    """Mean of what lies evenly between two lengths, each cut at ``most``."""
    if high <= most:
        return 0.5 * (low + high)
    if low >= most:
        return most
    return most - 0.5 * (most - low) ** 2 / (high - low)
