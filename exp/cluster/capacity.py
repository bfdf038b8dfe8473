"""How many requests per second a simulated cluster carries before an objective is missed.

The same requests at other speeds: arrivals are stretched, nothing else changes, so that rates and variants
are compared on the same luck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from exp.cluster.load import ClusterLoad
from exp.cluster.result import ClusterResult
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import ClusterSpec

_AT_ONCE_S = 1e-4
"""Between two requests that come at once."""
_STEADY = (0.15, 0.6)
"""Of the requests, by when they end."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What must hold."""

    limit_s: float = 3.0
    measure: str = "ttft_s"
    """A column of the result."""
    percentile: float = 99.0

    def value_s(self, result: ClusterResult) -> float:
        """What the run came to; infinity if a request was not answered."""
        values = result.column(self.measure)
        if len(values) < result.requests.num_rows:
            return float("inf")
        return float(np.percentile(values, self.percentile))


def at_rate(load: ClusterLoad, rate_per_s: float) -> ClusterLoad:
    """The same requests at another mean rate."""
    rate_now = (len(load) - 1) / (load.arrival_s[-1] - load.arrival_s[0])
    return replace(load, arrival_s=load.arrival_s * (rate_now / rate_per_s))


def all_at_once(load: ClusterLoad) -> ClusterLoad:
    """The same requests, all waiting from the beginning; in their order."""
    return replace(load, arrival_s=np.arange(len(load), dtype=np.float64) * _AT_ONCE_S)


def saturated_per_s(result: ClusterResult) -> float:
    """Requests per second that engines complete while nobody idles, of a load that came ``all_at_once``.

    Whatever the policy, a fleet cannot carry much more for long; a policy that avoids preemptions can carry
    what they would have wasted. The beginning, when nothing ends, and the end, when some idle, are left out.
    """
    ends_s = np.sort(result.column("arrival_s") + result.column("e2e_s"))
    first, last = (int(share * len(ends_s)) for share in _STEADY)
    return float((last - first) / (ends_s[last] - ends_s[first]))


def capacity_per_s(
    spec: ClusterSpec, load: ClusterLoad, objective: Objective, guess_per_s: float, precision: float = 0.005
) -> float:
    """The highest rate at which the objective holds, to ``precision`` of it.

    Searched from ``guess_per_s`` up or down and then halved; in between, the objective is taken to hold
    below and to be missed above.
    """

    def holds(rate_per_s: float) -> bool:
        return objective.value_s(simulate_cluster(spec, at_rate(load, rate_per_s))) <= objective.limit_s

    low = high = guess_per_s
    step = 1.08
    if holds(guess_per_s):
        while holds(high := high * step):
            low = high
    else:
        while not holds(low := low / step):
            high = low
    while high / low > 1 + precision:
        middle = math.sqrt(low * high)
        if holds(middle):
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
