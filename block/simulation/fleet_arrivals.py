"""The latest arrivals at each engine of a fleet, by which its predictor expects more."""

from __future__ import annotations

import math

import numpy as np

from block.simulation.expectation import KINDS, MOST, mixed_lengths
from block.simulation.memory import Ints
from block.simulation.survey import Seen


class FleetArrivals:
    """Remembers; ``seen`` is what the compiled survey reads."""

    def __init__(self, engines: int) -> None:
        self.seen = Seen(
            since_s=np.full(engines, math.inf),
            arrivals=np.zeros(engines, np.int64),
            times_s=np.zeros((engines, MOST)),
            lengths=np.zeros((engines, KINDS, 2), np.int64),
            kinds=np.zeros(engines, np.int64),
        )
        self._lengths = np.zeros((engines, MOST, 2), np.int64)

    def begin(self, engine: int, since_s: float) -> None:
        """From then on arrivals at this engine are seen, and more are expected."""
        self.seen.since_s[engine] = since_s
        self.seen.arrivals[engine] = 0

    def note(self, engine: int, time_s: float, lengths: tuple[int, int]) -> None:
        """One more, with its prompt and expected output tokens; the oldest is forgotten."""
        if self.seen.since_s[engine] == math.inf:
            return
        times, pairs = self.seen.times_s[engine], self._lengths[engine]
        count = int(self.seen.arrivals[engine])
        if count == MOST:
            times[:-1], pairs[:-1] = times[1:], pairs[1:]
            count -= 1
        times[count], pairs[count] = time_s, lengths
        self.seen.arrivals[engine] = count + 1
        mixed: Ints = mixed_lengths(pairs[: count + 1])
        self.seen.kinds[engine] = len(mixed)
        self.seen.lengths[engine, : len(mixed)] = mixed
