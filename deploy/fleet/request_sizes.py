"""Sizes of requests from the histograms of vLLM's metrics page. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Self

_BUCKET = re.compile(r'^vllm:(\w+)_bucket\{[^}]*le="([^"]+)"[^}]*\} ([0-9.eE+]+)$', re.MULTILINE)
_SUM = re.compile(r"^vllm:(\w+)_sum(?:\{[^}]*\})? ([0-9.eE+]+)$", re.MULTILINE)
_DRAWN = 128


@dataclass(frozen=True, slots=True)
class Histogram:
    """Of one quantity, over all that were counted."""

    counts: Mapping[float, float] = field(default_factory=dict)
    """Upper bound -> how many are at most that long, all in all."""
    total: float = 0.0
    """Of all values."""

    @property
    def count(self) -> float:
        """How many values there are."""
        return max(self.counts.values(), default=0.0)

    def plus(self, other: Self, sign: int = 1) -> Self:
        """Both together, or this one without the other."""
        bounds = self.counts.keys() | other.counts.keys()
        counts = {at: self.counts.get(at, 0.0) + sign * other.counts.get(at, 0.0) for at in bounds}
        return type(self)(counts, self.total + sign * other.total)


def read_histogram(pages: Iterable[str], name: str) -> Histogram:
    """One histogram summed over the pages of several engines."""
    found: dict[float, float] = {}
    total = 0.0
    for page in pages:
        for series, bound, count in _BUCKET.findall(page):
            if series == name:
                found[float(bound)] = found.get(float(bound), 0.0) + float(count)
        total += sum(float(value) for series, value in _SUM.findall(page) if series == name)
    return Histogram(found, total)


def draw_sizes(prompts: Histogram, outputs: Histogram) -> tuple[tuple[int, int], ...]:
    """Pairs with these distributions, prompt and response independent; none where nothing is known."""
    prompt, output = _drawn(prompts), _drawn(outputs)
    random.Random(0).shuffle(output)
    return tuple(zip(prompt, output, strict=False))


def _drawn(histogram: Histogram) -> list[int]:
    """Values at evenly spread shares, of the mean that is known: buckets are wide."""
    points = [(0.0, 0.0), *sorted(histogram.counts.items())]
    if histogram.count <= 0:
        return []
    wanted = [histogram.count * (place + 0.5) / _DRAWN for place in range(_DRAWN)]
    values = [_value(points, count) for count in wanted]
    factor = histogram.total / histogram.count / fmean(values) if histogram.total > 0 else 1.0
    return [max(round(value * factor), 1) for value in values]


def _value(points: Sequence[tuple[float, float]], count: float) -> float:
    """On straight lines within each bucket."""
    for (low, before), (high, after) in pairwise(points):
        if after >= count:
            top = high if high != float("inf") else low
            return max(low + (top - low) * (count - before) / (after - before), 1.0)
    raise AssertionError("the last bucket holds all")
