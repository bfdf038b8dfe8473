"""Whether an engine is faster or slower just now than its model says, and how much of that lasts.

Steps that follow each other deviate alike where something else has the machine's caches, clock or cores for
a moment. Which share of a deviation is still there over the steps to come is learned from the engine's
own past: next to nothing on a quiet GPU, a quarter on a CPU that others use too.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from block.latency.least_squares import Floats

LATEST = 8
"""Steps whose mean deviation is the present pace."""
AHEAD = 64
"""Steps to come over which the share is judged."""
REMEMBERED = 4096
_FEWEST = 512
"""Steps that tell a share; with fewer none of it is taken to last."""
_SMALL = 0.05
"""Deviations of that size are the model's own, and say nothing of how larger ones last."""
_MOST = math.log(1.5)
"""A single step counts as deviating by no more: a pause says nothing of the next steps."""


class Pace:
    """Deviations of one engine's latest steps, as logarithms of real over modelled seconds."""

    def __init__(self) -> None:
        self._deviations: deque[float] = deque(maxlen=REMEMBERED)
        self._latest: deque[float] = deque(maxlen=LATEST)
        self.share = 0.0
        """Of the present deviation, what is expected to last; 0..1."""

    def note(self, real_s: float, modelled_s: float) -> None:
        """One more step."""
        deviation = math.log(max(real_s, 1e-9) / max(modelled_s, 1e-9))
        deviation = min(max(deviation, -_MOST), _MOST)
        self._deviations.append(deviation)
        self._latest.append(deviation)

    def learn(self) -> None:
        """Judge anew how much lasts."""
        if len(self._deviations) >= _FEWEST:
            self.share = lasting_share(np.array(self._deviations))

    def forget(self) -> None:
        """The model has changed, or the engine: what steps deviated from is no more. The share stays."""
        self._latest.clear()
        self._deviations.clear()

    def pause(self) -> None:
        """The latest steps are long ago."""
        self._latest.clear()

    @property
    def factor(self) -> float:
        """By which steps to come are expected to last longer than modelled."""
        if not self._latest:
            return 1.0
        return math.exp(self.share * sum(self._latest) / len(self._latest))


def lasting_share(deviations: Floats) -> float:
    """Slope of the mean of ``AHEAD`` deviations over the mean of the ``LATEST`` before them, within 0..1.

    Held to 0, the more so the less they deviate.
    """
    sums = np.append(0.0, np.cumsum(deviations))
    latest = (sums[LATEST:-AHEAD] - sums[: -LATEST - AHEAD]) / LATEST
    ahead = (sums[LATEST + AHEAD :] - sums[LATEST:-AHEAD]) / AHEAD
    return float(np.clip(latest @ ahead / (latest @ latest + len(latest) * _SMALL**2), 0.0, 1.0))
