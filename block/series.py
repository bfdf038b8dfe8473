"""Labelled metrics that cost a dictionary's look-up to feed, with a bounded number of series.

For one thread. Whatever clients or policies name, no family has more than ``most`` series: what would be
one more is counted where all labels are ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

MOST_SERIES = 500
OTHER = "other"

Key = tuple[str, ...]
"""A value for each label."""


class Counters(Collector):
    """A family of counters."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        fixed: Mapping[str, str] | None = None,
        most: int = MOST_SERIES,
    ) -> None:
        """``fixed`` labels are the same for all series."""
        self._name = name
        self._text = text
        self._fixed = dict(fixed or {})
        self._labels = [*labels, *self._fixed]
        self._most = most
        self._counts: dict[Key, int] = {} if labels else {(): 0}

    def count(self, key: Key = (), by: int = 1) -> None:
        """Add ``by`` to one."""
        counts = self._counts
        if key in counts:
            counts[key] += by
        else:
            key = _bounded(key, counts, self._most)
            counts[key] = counts.get(key, 0) + by

    def keep(self, wanted: Callable[[Key], bool]) -> None:
        """Forget the others: of what is gone, nothing is told for ever."""
        self._counts = {key: count for key, count in self._counts.items() if wanted(key)}

    def collect(self) -> Iterator[Metric]:
        """What Prometheus reads."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for key, count in self._counts.items():
            family.add_metric([*key, *self._fixed.values()], count)
        yield family


class Histograms(Collector):
    """A family of histograms with the same bounds."""

    def __init__(
        self,
        name: str,
        text: str,
        bounds: Sequence[float],
        labels: Sequence[str] = (),
        *,
        unit: str = "",
        fixed: Mapping[str, str] | None = None,
        most: int = MOST_SERIES,
    ) -> None:
        """``unit`` must be the name's end. ``fixed`` labels are the same for all series."""
        self._name = name
        self._text = text
        self._bounds = bounds
        self._fixed = dict(fixed or {})
        self._labels = [*labels, *self._fixed]
        self._unit = unit
        self._most = most
        self._tallies: dict[Key, _Tally] = {} if labels else {(): _Tally(len(bounds) + 1)}

    def observe(self, value: float, key: Key = ()) -> None:
        """Count one."""
        tally = self._tallies.get(key)
        if tally is None:
            key = _bounded(key, self._tallies, self._most)
            tally = self._tallies.setdefault(key, _Tally(len(self._bounds) + 1))
        tally.counts[bisect_left(self._bounds, value)] += 1
        tally.sum += value

    def collect(self) -> Iterator[Metric]:
        """What Prometheus reads."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels, unit=self._unit)
        bounds = [*map(str, map(float, self._bounds)), "+Inf"]
        for key, tally in self._tallies.items():
            buckets = list(zip(bounds, accumulate(tally.counts), strict=True))
            family.add_metric([*key, *self._fixed.values()], buckets, tally.sum)
        yield family


class _Tally:
    """Counts by upper bound, in the order of the bounds, and the sum."""

    __slots__ = ("counts", "sum")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.sum = 0.0


def _bounded(key: Key, known: Mapping[Key, object], most: int) -> Key:
    return key if len(known) < most else (OTHER,) * len(key)
