"""How much more than its share an instance may hold before affinity gives way to balance.

Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018), with a floor: at
a handful of requests, shares are noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate


def load_bound(candidates: Sequence[Candidate], load_factor: float, always_allowed: int) -> int:
    """Most requests one candidate may hold, the new one included.

    ``load_factor`` times the mean (the new request counted), but no less than ``always_allowed``.
    """
    requests = 1 + sum(candidate.outstanding for candidate in candidates)
    return max(math.ceil(load_factor * requests / len(candidates)), always_allowed)


def within_bound_first(order: Sequence[Candidate], bound: int) -> list[Candidate]:
    """The candidates that have room keep their order; behind them the others, fewest requests first."""
    room = [candidate for candidate in order if candidate.outstanding < bound]
    full = [candidate for candidate in order if candidate.outstanding >= bound]
    return [*room, *sorted(full, key=lambda candidate: candidate.outstanding)]
