"""The rate at which a measure crosses its SLO, read off a curve, with an interval over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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


def crossings(rows: Iterable[Row], figure: str, slo: float) -> dict[str, dict[int, tuple[float, str]]]:
    """By policy and seed; the rows are of one engine and workload."""
    by_seed: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_seed[row.policy][row.seed].append((row.rate_per_s, row.figures[figure]))
    return {
        policy: {seed: crossing(curve, slo) for seed, curve in seeds.items()}
        for policy, seeds in by_seed.items()
    }


def capacities(rows: Iterable[Row], figure: str, slo: float) -> dict[str, Capacity]:
    """By policy; the rows are of one engine and workload."""
    found = {}
    for policy, seeds in crossings(rows, figure, slo).items():
        sides = {side for _, side in seeds.values()}
        bound = sides.pop() if len(sides) == 1 else "~"
        found[policy] = Capacity(Interval.of([rate for rate, _ in seeds.values()]), bound)
    return found


def gains(rows: Iterable[Row], figure: str, slo: float, baseline: str) -> dict[str, Capacity]:
    """By policy: how much more it carries than the baseline on the same requests, seed by seed, as a share.

    ``bound`` is ``>=`` or ``<=`` where a curve ended before it reached the SLO, ``~`` if both did.
    """
    found = crossings(rows, figure, slo)
    theirs = found.pop(baseline)
    return {policy: _gain(mine, theirs) for policy, mine in found.items()}


def _gain(mine: Mapping[int, tuple[float, str]], theirs: Mapping[int, tuple[float, str]]) -> Capacity:
    both = sorted(set(mine) & set(theirs))
    shares = [mine[seed][0] / theirs[seed][0] - 1 for seed in both]
    sides = {mine[seed][1] for seed in both} | {_OTHER[theirs[seed][1]] for seed in both}
    sides.discard("")
    bound = sides.pop() if len(sides) == 1 else "~" * bool(sides)
    return Capacity(Interval.of(shares), bound)


_OTHER = {"": "", "<=": ">=", ">=": "<="}
"""What a bound of the baseline means for a gain over it."""
