"""The candidate that got the fewest requests in the last minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest


@dataclass(frozen=True, slots=True)
class MinQpm:
    """Balances the rate of queries per minute (Block, arXiv 2508.03611, baselines)."""

    needs: ClassVar[Needs] = Needs(lengths=False)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Fewest sent in the last 60 s first; ties by the request's seed."""
        return Choice.least(request, candidates, lambda one: one.sent_last_minute, "fewest_last_minute")
