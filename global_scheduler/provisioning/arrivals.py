"""How fast requests have come, from counts at the controller's looks."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from statistics import fmean, pvariance

from global_scheduler.provisioning.base import ArrivalProcess

_FEWEST_COUNTS = 4
"""Below so many intervals, neither growth nor dispersion can be told."""
_BURSTIEST = 10.0


class ArrivalHistory:
    """Remembers the counts of one window."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._looks: deque[tuple[float, int]] = deque()

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
        middle = looks[len(looks) // 2]
        before_per_s, rate_per_s = _rate(looks[0], middle), _rate(middle, looks[-1])
        return ArrivalProcess(rate_per_s, rate_per_s - before_per_s, _dispersion(looks))


def _rate(first: tuple[float, int], last: tuple[float, int]) -> float:
    passed_s = last[0] - first[0]
    return (last[1] - first[1]) / passed_s if passed_s > 0 else 0.0


def _dispersion(looks: list[tuple[float, int]]) -> float:
    counts = [after[1] - before[1] for before, after in pairwise(looks)]
    mean = fmean(counts)
    return min(max(pvariance(counts) / mean, 1.0), _BURSTIEST) if mean > 0 else 1.0
