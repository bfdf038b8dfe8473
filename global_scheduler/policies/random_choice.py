"""Any candidate, all equally likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest


@dataclass(frozen=True, slots=True)
class RandomChoice:
    """The baseline that knows nothing."""

    needs: ClassVar[Needs] = Needs(lengths=False)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """A shuffle by the request's seed."""
        order = list(candidates)
        request.dice().shuffle(order)
        return Choice.of(order, "random")
