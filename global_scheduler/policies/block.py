"""The candidate where the request is predicted to be complete first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from global_scheduler.policies.base import Candidate, Choice, RoutingRequest


@dataclass(frozen=True, slots=True)
class Block:
    """Smallest simulated completion time (Block, arXiv 2508.03611, section 4)."""

    uses_predictions: ClassVar[bool] = True

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """By predicted E2E; those without an answer last; ties by outstanding, then by seed."""
        order = list(candidates)
        request.dice().shuffle(order)
        order.sort(key=_completion)
        reason = "no_prediction" if order[0].prediction is None else "earliest_completion"
        return Choice.of(order, reason)


def _completion(candidate: Candidate) -> tuple[float, int]:
    prediction = candidate.prediction
    return (math.inf if prediction is None else prediction.e2e_s, candidate.outstanding)
