"""Ranks candidates by a score of their prediction; those without an answer come last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from block.types import Prediction
from global_scheduler.policies.base import Candidate, Choice, RoutingRequest


def least_by_prediction(
    request: RoutingRequest,
    candidates: Sequence[Candidate],
    score: Callable[[Prediction, Candidate], tuple[float, ...]],
    reason: str,
) -> Choice:
    """Smallest score first; ties by outstanding requests, then by the request's seed."""

    def key(candidate: Candidate) -> tuple[tuple[float, ...], int]:
        prediction = candidate.prediction
        return (_LAST if prediction is None else score(prediction, candidate), candidate.outstanding)

    known = any(candidate.prediction is not None for candidate in candidates)
    return Choice.least(request, candidates, key, reason if known else "no_prediction")


_LAST = (math.inf,)
