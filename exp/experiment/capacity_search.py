"""Searching for the most that is still good: bracket, then refine. Pure; what is measured is a function."""

from __future__ import annotations

import math
from collections.abc import Callable

from block.errors import StateError
from exp.experiment.capacity_curve import crossing

Measure = Callable[[float], float]

_MOST_DOUBLINGS = 20
_MOST_HALVINGS = 11
"""Fewer: a fleet that hardly gets anything is simulated through days, and answers as an idle one does."""


def highest_rate(measure: Measure, slo: float, guess: float, tolerance: float) -> float:
    """The rate at which ``measure`` passes the SLO, to ``tolerance`` (relative); ``guess`` is where to begin.

    ``measure`` should rise with its argument, noise aside; what is found is one crossing. Raises StateError
    if it never passes the SLO, or always has.
    """
    low, high = _bracket(measure, slo, guess)
    while high[0] / low[0] > 1.0 + tolerance:
        # Halving in the logarithm: near saturation latencies leap, and a secant would overshoot.
        middle = math.sqrt(low[0] * high[0])
        point = (middle, measure(middle))
        low, high = (low, point) if point[1] > slo else (point, high)
    return crossing([low, high], slo)[0]


def fewest(good: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 1 to ``most`` that is good, if larger ones are, too; None if none is."""
    low, high = 0, 1
    while not good(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def _bracket(measure: Measure, slo: float, guess: float) -> tuple[tuple[float, float], tuple[float, float]]:
    point = (guess, measure(guess))
    step = 0.5 if point[1] > slo else 2.0
    for _ in range(_MOST_DOUBLINGS if step > 1.0 else _MOST_HALVINGS):
        before, point = point, (point[0] * step, measure(point[0] * step))
        if (point[1] > slo) != (before[1] > slo):
            return (before, point) if step > 1.0 else (point, before)
    side = "above" if step > 1.0 else "below"
    raise StateError(f"the SLO of {slo:g} lies {side} everything from {guess:g} to {point[0]:g} requests/s")
