"""What the latest arrivals at one engine let expect of the next ones, compiled: their rate and lengths.

Evenly spaced at the present rate, with the lengths of those seen, in an order of which every stretch is
about as mixed as the whole. Knows neither who asks nor where the arrivals were seen.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.memory import Floats, Ints

WINDOW_S: Final = 30.0
"""Arrivals older than this say nothing of the rate."""
RECENT: Final = 40
"""Nor do those before the latest so many: where many come, a change shows sooner."""
HORIZON_S: Final = 60.0
"""How far ahead arrivals are expected."""
MOST: Final = 128
"""Arrivals remembered, and expected at most: at high rates both reach less far."""
GRID_SHARE: Final = 0.125
"""Of the time between two of them, how far apart questions may be that count on them at the same times."""
KINDS: Final = 32
"""Kinds of requests, by length, that are told apart."""
_FEWEST: Final = 3
_LEAST_SPAN_S: Final = 1.0
"""Many that show at once, as after a gap in the feed, are no rate."""


@compiled
def arrival_rate(seen_s: Floats, since_s: float, now_s: float) -> float:
    """Mean arrivals per second over the window, or since the first look at ``since_s`` if that was later.

    ``seen_s`` never fall; those after ``now_s`` are not known yet.
    """
    start_s = max(now_s - WINDOW_S, since_s)
    recent = 0
    for i in range(seen_s.size - 1, -1, -1):
        if seen_s[i] > now_s:
            continue
        enough = recent >= RECENT and now_s - seen_s[i] >= _LEAST_SPAN_S
        if enough or recent == MOST - 1:
            start_s = max(start_s, seen_s[i])
        if seen_s[i] <= start_s:
            break
        recent += 1
    return recent / max(now_s - start_s, _LEAST_SPAN_S) if recent >= _FEWEST else 0.0


@compiled
def expected_count(rate_per_s: float) -> int:
    """How many arrivals are expected at a rate."""
    return min(MOST, math.ceil(rate_per_s * HORIZON_S))


@compiled
def expected_as_of_s(now_s: float, grid_s: float) -> float:
    """When a question asked at ``now_s`` takes arrivals to count from: the middle of its cell of the grid."""
    return (math.floor(now_s / grid_s) + 0.5) * grid_s if grid_s > 0.0 else now_s


@compiled_allocating
def mixed_lengths(pairs: Ints) -> Ints:
    """(kinds, 2) means of equal shares of ``pairs`` (requests, 2), by their sums, in a mixed order."""
    count = len(pairs)
    kinds = min(KINDS, count)
    order = np.argsort(pairs[:, 0] + pairs[:, 1], kind="mergesort")
    mixed = np.empty((kinds, 2), np.int64)
    for place, kind in enumerate(_mixed_order(kinds)):
        prompt = output = 0
        # Each as often as there are kinds, so that equal shares can be cut whatever their number.
        for share in range(kind * count, (kind + 1) * count):
            prompt += pairs[order[share // kinds], 0]
            output += pairs[order[share // kinds], 1]
        mixed[place, 0] = round(prompt / count)
        mixed[place, 1] = round(output / count)
    return mixed


@compiled_allocating
def _mixed_order(count: int) -> Ints:
    """0..count-1 by their bits in reverse: every stretch is spread over the whole range.

    From the middle on, the extremes last: starting at either end would count it too often.
    """
    bits = 1
    while 2**bits < count:
        bits += 1
    order = np.empty(count, np.int64)
    place = 0
    for i in range(1, 2**bits + 1):
        reverse = 0
        for bit in range(bits):
            reverse |= ((i % 2**bits >> bit) & 1) << (bits - 1 - bit)
        if reverse < count:
            order[place] = reverse
            place += 1
    return order
