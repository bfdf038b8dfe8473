"""The rate at which a measure crosses its SLO, read off a curve, with an interval over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from exp.experiment.summary import Interval, Row


@dataclass(frozen=True, slots=True)
class Capacity:
    """Requests per second that a fleet carries within an SLO."""

    rate_per_s: Interval
    bound: str = ""
    """``>=`` if no curve reached the SLO, ``<=`` if all began above it, ``~`` if seeds differ; else empty."""


def crossing(curve: Sequence[tuple[float, float]], slo: float) -> tuple[float, str]:
    """Where a curve of rising rates first passes the SLO, and on which side of what was measured it lies.

    Between two rates the measure's logarithm is taken as linear: latencies grow that way near saturation.
    """
    known = [(rate, value) for rate, value in sorted(curve) if not math.isnan(value)]
    if not known:
        return float("nan"), ""
    if known[0][1] > slo:
        return known[0][0], "<="
    for (low, below), (high, above) in pairwise(known):
        if above > slo:
            rise = math.log(above) - math.log(max(below, 1e-9))
            return low + (high - low) * (math.log(slo) - math.log(max(below, 1e-9))) / rise, ""
    return known[-1][0], ">="


def capacities(rows: Iterable[Row], figure: str, slo: float) -> dict[str, Capacity]:
    """By policy; the rows are of one engine and workload."""
    by_seed: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_seed[row.policy][row.seed].append((row.rate_per_s, row.figures[figure]))
    found = {}
    for policy, seeds in by_seed.items():
        points = [crossing(curve, slo) for curve in seeds.values()]
        sides = {side for _, side in points}
        bound = sides.pop() if len(sides) == 1 else "~"
        found[policy] = Capacity(Interval.of([rate for rate, _ in points]), bound)
    return found
