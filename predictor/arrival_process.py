"""What has been arriving at one engine lately, and so what to expect while it serves what it has.

The rate is that of the latest arrivals; lengths are theirs too, in an order of which every stretch is as
mixed as the whole. Knows no clock: times come in by call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from block.lengths import LengthDistribution
from block.messages import RequestFacts
from block.simulation.background import Background
from block.simulation.memory import Ints

WINDOW_S = 30.0
"""Arrivals older than this say nothing of the rate."""
RECENT = 40
"""Nor do those before the latest so many: where many come, a change shows sooner."""
HORIZON_S = 60.0
"""How far ahead arrivals are expected."""
MOST = 128
"""Arrivals remembered, and expected at most: at high rates both reach less far."""
GRID_SHARE = 0.125
"""Of the time between two of them, how far apart questions may be that count on them at the same times."""
KINDS = 32
"""Kinds of requests, by length, that are told apart."""
_FEWEST = 3
_LEAST_SPAN_S = 1.0
"""Many that show at once, as after a gap in the feed, are no rate."""

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
        self._mixed: tuple[int, Ints] | None = None
        self.version = 0
        """Changes with every arrival."""

    def note(self, arrivals: Iterable[RequestFacts], now_s: float) -> None:
        """These requests have come."""
        if self._since_s is None or now_s < self._since_s:
            # Who was there before the first look, or before the clock was set back, came at times unknown.
            self._since_s = now_s
            self._seen.clear()
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
        start_s = max(now_s - WINDOW_S, self._since_s)
        recent = 0
        for seen in reversed(self._seen):
            enough = recent >= RECENT and now_s - seen.seen_s >= _LEAST_SPAN_S
            if enough or recent == MOST - 1:
                start_s = max(start_s, seen.seen_s)
            if seen.seen_s <= start_s:
                break
            recent += 1
        return recent / max(now_s - start_s, _LEAST_SPAN_S) if recent >= _FEWEST else 0.0

    def expected(self, now_s: float) -> Background:
        """Evenly spaced arrivals at the present rate from ``now_s`` on; none if hardly any were seen."""
        rate_per_s = self.rate_per_s(now_s)
        if rate_per_s <= 0.0:
            return Background.none()
        count = min(MOST, math.ceil(rate_per_s * HORIZON_S))
        kinds = self._mixed_lengths()
        lengths = kinds[np.arange(count) % len(kinds)]
        arrival_s = (np.arange(count, dtype=np.float64) + 0.5) / rate_per_s
        return Background(arrival_s, lengths[:, 0], lengths[:, 1], GRID_SHARE / rate_per_s)

    def _mixed_lengths(self) -> Ints:
        """(kinds, 2) prompt and output tokens: means of equal shares of those seen, in an order of which
        every stretch is about as mixed as the whole.
        """
        if self._mixed is None or self._mixed[0] != self.version:
            pairs = [(seen.facts.prompt_tokens, self._output_tokens(seen)) for seen in self._seen]
            pairs.sort(key=sum)
            kinds = min(KINDS, len(pairs))
            # Each as often as there are kinds, so that equal shares can be cut whatever their number.
            means = np.repeat(np.array(pairs), kinds, axis=0).reshape(kinds, len(pairs), 2).mean(axis=1)
            mixed = np.rint(means[_mixed_order(len(means))]).astype(np.int64)
            self._mixed = (self.version, mixed)
        return self._mixed[1]

    def _output_tokens(self, seen: _Seen) -> int:
        if seen.output_tokens is None:
            length = self._length_of(seen.facts.id)
            if length is None:
                return seen.facts.max_tokens
            seen.output_tokens = min(max(1, round(length.mean())), seen.facts.max_tokens)
        return seen.output_tokens


def _mixed_order(count: int) -> list[int]:
    """0..count-1 by their bits in reverse: every stretch is spread over the whole range.

    From the middle on, the extremes last: starting at either end would count it too often.
    """
    bits = max(1, (count - 1).bit_length())
    reverse = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)]
    return [i for i in (*reverse[1:], 0) if i < count]
