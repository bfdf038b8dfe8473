"""Steps of another speed wait here until it is seen whether that is the engine's own or a moment's.

A lowered clock lasts; a neighbour's burst does not, and what is known of the engine is not to follow it: its
steps are forgotten. Where no kind was known that showed the other speed, what was expected of them was wrong,
and they are learned from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from block.latency.least_squares import Floats

LASTING_STEPS, LASTING_S = 128, 15.0
"""An engine must be slower, or faster, over so many steps and seconds until that counts as its own speed."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A few steps that follow each other."""

    shapes: Floats
    rows: Floats
    seconds: Floats
    change: float
    """How many times longer they took than expected; 1.0 if they did not."""
    known: bool
    """Whether most are of kinds that were met before."""
    start_s: float
    end_s: float


class Probation:
    """Steps that are all slower, or all faster, than what is known."""

    def __init__(self) -> None:
        self._waiting: list[Fresh] = []

    def admit(self, fresh: Fresh) -> tuple[list[Fresh], float]:
        """The steps to learn from now, and how many times longer the engine takes from now on."""
        self._waiting.append(fresh)
        changes, lasting = [each.change for each in self._waiting], 1.0
        if min(changes) > 1.0 or max(changes) < 1.0:
            if not self._has_lasted():
                return [], 1.0
            lasting = float(np.median(changes))
        *moment, _ = self._waiting
        if lasting == 1.0 and any(each.known for each in moment):
            moment = []
        self._waiting = []
        return [*moment, fresh], lasting

    def _has_lasted(self) -> bool:
        steps = sum(len(each.seconds) for each in self._waiting)
        return steps >= LASTING_STEPS and self._waiting[-1].end_s - self._waiting[0].start_s >= LASTING_S
