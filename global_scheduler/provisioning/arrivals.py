"""How fast requests have come, from counts at the controller's looks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, variance

from global_scheduler.provisioning.base import ArrivalProcess

_FEWEST_COUNTS = 4
"""Below so many intervals, neither growth nor dispersion can be told."""
_BURSTIEST = 10.0
_SURE = 3.0
"""Standard deviations of chance beyond which a difference between the halves is one: looks are many."""

_Look = tuple[float, int]
"""When, and how many requests had come by then."""


class ArrivalHistory:
    """Remembers the counts of one window."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._looks: deque[_Look] = deque()

    def note(self, at_s: float, requests: int) -> None:
        """``requests`` had come by ``at_s``, all in all."""
        self._looks.append((at_s, requests))
        while len(self._looks) > 2 and self._looks[1][0] <= at_s - self._window_s:
            self._looks.popleft()

    @property
    def process(self) -> ArrivalProcess:
        """As the window shows it; nothing is known before the second look."""
        looks = list(self._looks)
        if len(looks) < 2:
            return ArrivalProcess()
        if len(looks) <= _FEWEST_COUNTS:
            return ArrivalProcess(_rate(looks[0], looks[-1]))
        middle = len(looks) // 2
        first, second = looks[: middle + 1], looks[middle:]
        before_per_s, rate_per_s = _rate(first[0], first[-1]), _rate(second[0], second[-1])
        dispersion = fmean([_dispersion(first), _dispersion(second)])
        growth_per_s = rate_per_s - before_per_s
        chance_per_s = math.sqrt(dispersion * (_variance(first) + _variance(second)))
        if abs(growth_per_s) <= _SURE * chance_per_s:
            return ArrivalProcess(_rate(looks[0], looks[-1]), 0.0, dispersion)
        return ArrivalProcess(rate_per_s, growth_per_s, dispersion)


def _rate(first: _Look, last: _Look) -> float:
    passed_s = last[0] - first[0]
    return (last[1] - first[1]) / passed_s if passed_s > 0 else 0.0


def _variance(looks: Sequence[_Look]) -> float:
    """Of the rate, were the arrivals Poisson's."""
    passed_s = looks[-1][0] - looks[0][0]
    return (looks[-1][1] - looks[0][1]) / passed_s**2 if passed_s > 0 else 0.0


def _dispersion(looks: Sequence[_Look]) -> float:
    counts = [after[1] - before[1] for before, after in pairwise(looks)]
    mean = fmean(counts)
    return min(max(variance(counts) / mean, 1.0), _BURSTIEST) if mean > 0 else 1.0
