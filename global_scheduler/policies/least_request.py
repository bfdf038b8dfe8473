"""The candidate with the fewest requests outstanding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest


@dataclass(frozen=True, slots=True)
class LeastRequest:
    """Balances counts as they are, not as they were dealt; knows only what this scheduler sent."""

    needs: ClassVar[Needs] = Needs(lengths=False)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Fewest outstanding first; ties by the request's seed."""
        return Choice.least(request, candidates, lambda one: one.outstanding, "fewest_outstanding")
