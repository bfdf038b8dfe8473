"""Ranks candidates by a score of their engine's load; those whose load is not known come last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from block.types import EngineLoad
from global_scheduler.policies.base import Candidate, Choice, RoutingRequest


def least_by_load(
    request: RoutingRequest,
    candidates: Sequence[Candidate],
    score: Callable[[EngineLoad, Candidate], float],
    reason: str,
) -> Choice:
    """Smallest score first; ties by outstanding requests, then by the request's seed."""

    def key(candidate: Candidate) -> tuple[float, int]:
        load = candidate.load
        return (math.inf if load is None else score(load, candidate), candidate.outstanding)

    known = any(candidate.load is not None for candidate in candidates)
    return Choice.least(request, candidates, key, reason if known else "no_load")


def batch_size(load: EngineLoad) -> int:
    """Running requests, at least one: what loads are divided by."""
    return max(load.running, 1)
