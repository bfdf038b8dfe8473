"""The candidate with the fewest requests outstanding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from global_scheduler.policies.base import Candidate, Choice, RoutingRequest


@dataclass(frozen=True, slots=True)
class LeastRequest:
    """Balances counts as they are, not as they were dealt; knows only what this scheduler sent."""

    uses_predictions: ClassVar[bool] = False

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Fewest outstanding first; ties by the request's seed."""
        order = list(candidates)
        request.dice().shuffle(order)
        order.sort(key=lambda candidate: candidate.outstanding)
        return Choice.of(order, "fewest_outstanding")
