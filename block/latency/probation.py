"""Steps of another speed wait here until it is seen whether that is the engine's own or a moment's.

A lowered clock lasts; a neighbour's burst does not, and what is known of the engine is not to follow it: its
steps are forgotten. Only kinds of steps that are known can tell another speed; what is expected of others may
be wrong, so they are learned from at once, unless known ones wait. Time is counted in the steps' own seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from block.latency.least_squares import Floats

LASTING_STEPS, LASTING_S = 128, 15.0
"""An engine must be slower, or faster, over so many steps and seconds until that counts as its own speed."""
_CONTRARY_SHARE = 0.5
"""Other steps may take this share of the time of those that wait; beyond it the moment is over."""


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
    taken: int = 0
    """Steps learned from before them."""

    @property
    def direction(self) -> int:
        """1 if they took longer, -1 if less long, else 0."""
        return (self.change > 1.0) - (self.change < 1.0)

    @property
    def span_s(self) -> float:
        """What they took in all."""
        return float(self.seconds.sum())


class Probation:
    """Steps that are all slower, or all faster, than what is known."""

    def __init__(self) -> None:
        self._waiting: list[Fresh] = []
        self._contrary_s = 0.0

    def admit(self, fresh: Fresh, *, settled: bool) -> tuple[list[Fresh], float]:
        """The steps to learn from now, and how many times longer the engine takes than before the first.

        ``settled``: whether the engine's own speed is known at all; until then each change is followed.
        """
        if not self._waiting:
            if not (fresh.known and fresh.direction):
                return [fresh], 1.0
            if not settled:
                return [fresh], fresh.change
        elif fresh.direction != self._waiting[0].direction:
            return self._object(fresh), 1.0
        self._waiting.append(fresh)
        return self._release() if self._has_lasted() else ([], 1.0)

    def _object(self, fresh: Fresh) -> list[Fresh]:
        """Steps of the usual speed, or of the opposite one, while others wait."""
        self._contrary_s += fresh.span_s
        if self._contrary_s > _CONTRARY_SHARE * sum(each.span_s for each in self._waiting):
            self._forget()
        return [] if fresh.direction else [fresh]

    def _has_lasted(self) -> bool:
        steps = sum(len(each.seconds) for each in self._waiting)
        return steps >= LASTING_STEPS and sum(each.span_s for each in self._waiting) >= LASTING_S

    def _release(self) -> tuple[list[Fresh], float]:
        released, lasting = self._waiting, float(np.median([each.change for each in self._waiting]))
        self._forget()
        return released, lasting

    def _forget(self) -> None:
        self._waiting, self._contrary_s = [], 0.0
