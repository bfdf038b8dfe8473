"""Whether what a spec expects came true: orders, the widest gain, goals. By intervals over seeds, if any.

One seed gives no interval; then the sign decides, and a reader sees that there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exp.experiment.capacity_curve import Capacity, capacities, gains
from exp.experiment.claims import ExpectedOrder, Goal, WidestGain
from exp.experiment.summary import Interval, Row, groups, ratios

_P99 = "ttft_p99_s"
ABOUT = 0.1
"""Capacities that differ by less count as about equal."""
_UNTOLD = "not told apart"


@dataclass(frozen=True, slots=True)
class Compared:
    """One neighbouring pair of an expected order."""

    left: str
    relation: str
    right: str
    gain: Capacity
    """Of the right over the left, as a share."""
    holds: str


@dataclass(frozen=True, slots=True)
class Reached:
    """One policy against one goal."""

    policy: str
    over: str
    """The best of those that the goal names."""
    rate_per_s: float | None
    """At which tails were compared; None for capacities."""
    gain: Capacity | None
    """Of capacity, as a share."""
    tail: Interval | None
    """Logarithm of our P99 TTFT over theirs."""
    verdict: str
    """``met``, ``missed``, or ``open`` where the interval reaches to both sides."""


def compared(order: ExpectedOrder, rows: Sequence[Row]) -> Iterator[Compared]:
    """Its pairs, in order; those that were not run are left out."""
    here = groups(rows).get(order.place, [])
    known = {row.policy for row in here}
    for left, relation, right in order.pairs:
        if {left, right} <= known:
            gain = gains(here, _P99, order.slo_ttft_s, left)[right]
            yield Compared(left, relation, right, gain, _HOLDS[relation](gain))


def widest(claim: WidestGain, rows: Sequence[Row]) -> tuple[dict[str, Capacity], str]:
    """The gain by engine, and whether the mean is largest where it was claimed; no gains, no answer."""
    found = {
        engine: gains(group, _P99, claim.slo_ttft_s, claim.over)[claim.policy]
        for (engine, workload), group in groups(rows).items()
        if workload == claim.workload and {claim.policy, claim.over} <= {row.policy for row in group}
    }
    if claim.engine not in found:
        return {}, "-"
    here = found[claim.engine]
    others = [gain for engine, gain in found.items() if engine != claim.engine]
    above = all(here.rate_per_s.mean > other.rate_per_s.mean for other in others)
    sure = here.bound in ("", ">=") and all(other.bound in ("", "<=") for other in others)
    return found, ("yes" if above else "no") if sure else "not told: the rates ended"


def reached(goal: Goal, rows: Sequence[Row]) -> Iterator[Reached]:
    """One per policy for capacity, one per policy and rate for tails."""
    here = groups(rows).get(goal.place, [])
    carried = {name: one.rate_per_s.mean for name, one in capacities(here, _P99, goal.slo_ttft_s).items()}
    rivals = {name: carried[name] for name in goal.over if name in carried}
    if not rivals:
        return
    best = max(rivals, key=lambda name: rivals[name])
    for policy in goal.policies:
        if goal.capacity_gain is not None and policy in carried:
            gain = gains(here, _P99, goal.slo_ttft_s, best)[policy]
            yield Reached(policy, best, None, gain, None, _met(gain, goal.capacity_gain))
        if goal.tail_cut is not None:
            for rate, tail in ratios(here, _P99, best).get(policy, {}).items():
                yield Reached(policy, best, rate, None, tail, _cut(tail, goal.tail_cut))


def _ends(interval: Interval) -> tuple[float, float]:
    half = 0.0 if math.isnan(interval.half) else interval.half
    return interval.mean - half, interval.mean + half


def _met(gain: Capacity, least: float) -> str:
    low, high = _ends(gain.rate_per_s)
    if low >= least and gain.bound in ("", ">="):
        return "met"
    return "missed" if high < least and gain.bound in ("", "<=") else "open"


def _cut(tail: Interval, share: float) -> str:
    low, high = _ends(tail)
    limit = math.log(1.0 - share)
    return "met" if high <= limit else "missed" if low > limit else "open"


def _less(gain: Capacity) -> str:
    low, high = _ends(gain.rate_per_s)
    if low > 0 and gain.bound in ("", ">="):
        return "yes"
    return "no" if high < 0 and gain.bound in ("", "<=") else _UNTOLD


def _not_more(gain: Capacity) -> str:
    if gain.bound == "~":
        return _UNTOLD
    return "no" if _less(gain) == "no" else "yes"


def _alike(gain: Capacity) -> str:
    if gain.bound:
        return _UNTOLD
    return "yes" if abs(gain.rate_per_s.mean) <= ABOUT else "no"


_HOLDS: Mapping[str, Callable[[Capacity], str]] = {"<": _less, "<=": _not_more, "~": _alike}
