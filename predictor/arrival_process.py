"""What has been arriving at one engine lately, and so what to expect while it serves what it has.

Remembers; what follows from it is in ``block.simulation.expectation``. Knows no clock: times come in by
call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from block.lengths import LengthDistribution
from block.messages import RequestFacts
from block.simulation.background import Background
from block.simulation.expectation import GRID_SHARE, MOST, arrival_rate, expected_count, mixed_lengths
from block.simulation.memory import Floats, Ints

LengthOf = Callable[[str], LengthDistribution | None]


@dataclass(slots=True)
class _Seen:
    facts: RequestFacts
    seen_s: float
    output_tokens: int | None = None
    """None until somebody has told."""


class ArrivalProcess:
    """Remembers the latest arrivals of one engine."""

    def __init__(self, length_of: LengthOf) -> None:
        """``length_of``: what is known of a request's response length, by the engine's id for it."""
        self._length_of = length_of
        self._seen: deque[_Seen] = deque(maxlen=MOST)
        self._since_s: float | None = None
        self._times: tuple[int, Floats] | None = None
        self._mixed: tuple[int, Ints] | None = None
        self.version = 0
        """Changes with every arrival."""

    def note(self, arrivals: Iterable[RequestFacts], now_s: float) -> None:
        """These requests have come."""
        if self._since_s is None or now_s < self._since_s:
            # Who was there before the first look, or before the clock was set back, came at times unknown.
            self._since_s = now_s
            self._seen.clear()
            self.version += 1
            return
        for facts in arrivals:
            seen = _Seen(facts, now_s)
            self._output_tokens(seen)  # what is known of it is forgotten when it leaves
            self._seen.append(seen)
            self.version += 1

    def rate_per_s(self, now_s: float) -> float:
        """Mean arrivals per second over the window, or since the first look if that was later."""
        if self._since_s is None:
            return 0.0
        if self._times is None or self._times[0] != self.version:
            self._times = (self.version, np.array([seen.seen_s for seen in self._seen], np.float64))
        return float(arrival_rate(self._times[1], self._since_s, now_s))

    def expected(self, now_s: float) -> Background:
        """Evenly spaced arrivals at the present rate from ``now_s`` on; none if hardly any were seen."""
        rate_per_s = self.rate_per_s(now_s)
        if rate_per_s <= 0.0:
            return Background.none()
        prompts, outputs = self._mixed_lengths(expected_count(rate_per_s))
        arrival_s = (np.arange(len(prompts), dtype=np.float64) + 0.5) / rate_per_s
        return Background(arrival_s, prompts, outputs, GRID_SHARE / rate_per_s)

    def _mixed_lengths(self, count: int) -> Ints:
        """(2, count) prompt and output tokens."""
        if self._mixed is None or self._mixed[0] != self.version or self._mixed[1].shape[1] != count:
            pairs = [(seen.facts.prompt_tokens, self._output_tokens(seen)) for seen in self._seen]
            kinds = mixed_lengths(np.array(pairs, np.int64))
            lengths = kinds[np.arange(count) % len(kinds)]
            self._mixed = (self.version, np.ascontiguousarray(lengths.T))
        return self._mixed[1]

    def _output_tokens(self, seen: _Seen) -> int:
        if seen.output_tokens is None:
            length = self._length_of(seen.facts.id)
            if length is None:
                return seen.facts.max_tokens
            seen.output_tokens = min(max(1, round(length.mean())), seen.facts.max_tokens)
        return seen.output_tokens
