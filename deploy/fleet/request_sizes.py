"""Sizes of requests from the histograms of vLLM's metrics page. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

_BUCKET = re.compile(r'^vllm:(\w+)_bucket\{[^}]*le="([^"]+)"[^}]*\} ([0-9.eE+]+)$', re.MULTILINE)
_DRAWN = 128

Histogram = Mapping[float, float]
"""Upper bound -> how many are at most that long, all in all."""


def read_histogram(pages: Iterable[str], name: str) -> dict[float, float]:
    """One histogram summed over the pages of several engines."""
    found: dict[float, float] = {}
    for page in pages:
        for series, bound, count in _BUCKET.findall(page):
            if series == name:
                found[float(bound)] = found.get(float(bound), 0.0) + float(count)
    return found


def draw_sizes(prompts: Histogram, outputs: Histogram) -> tuple[tuple[int, int], ...]:
    """Pairs with these distributions, prompt and response independent; none where nothing is known."""
    prompt, output = _quantiles(prompts), _quantiles(outputs)
    random.Random(0).shuffle(output)
    return tuple(zip(prompt, output, strict=False))


def _quantiles(histogram: Histogram) -> list[int]:
    """Values at evenly spread shares, on straight lines within each bucket."""
    points = [(0.0, 0.0), *((bound, count) for bound, count in sorted(histogram.items()))]
    total = points[-1][1]
    if total <= 0:
        return []
    wanted = [total * (place + 0.5) / _DRAWN for place in range(_DRAWN)]
    return [_value(points, count) for count in wanted]


def _value(points: list[tuple[float, float]], count: float) -> int:
    for (low, before), (high, after) in pairwise(points):
        if after >= count:
            top = high if high != float("inf") else low
            return max(round(low + (top - low) * (count - before) / (after - before)), 1)
    raise AssertionError("the last bucket holds all")
