"""Each candidate in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Even by count, blind to cost. The turn is the request's sequence number."""

    needs: ClassVar[Needs] = Needs(lengths=False)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """The candidate whose turn it is, then those that follow it."""
        turn = request.sequence % len(candidates)
        return Choice.of([*candidates[turn:], *candidates[:turn]], "turn")
