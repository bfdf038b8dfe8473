"""Heuristics told by hand what a simulated pool is made of: what a careful operator would set up.

Not part of the router: their options name instances by number, as simulations do. The defaults are for eight
A30s and two A100s: the best of the weights 3, 4, 5, 6 and 8 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from global_scheduler.policies import Candidate, Choice, Needs, RoutingRequest

Weight = Annotated[float, Field(strict=True, gt=0, le=1000)]


@dataclass(frozen=True, slots=True)
class WeightedLeastRequest:
    """Fewest requests, or tokens, outstanding for what each instance is worth, the newcomer counted in."""

    needs: ClassVar[Needs] = Needs()
    first: Annotated[int, Field(strict=True, ge=0)] = 8
    """Number of the first of the faster instances; those before it weigh 1."""
    weight: Weight = 6.0
    """Of the faster ones."""
    tokens: bool = False
    """Whether prompt and expected output tokens are counted, or requests."""

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Smallest weighted burden first."""

        def burden(candidate: Candidate) -> float:
            held = candidate.outstanding_tokens + request.tokens if self.tokens else candidate.outstanding + 1
            return held / (self.weight if self._is_fast(candidate) else 1.0)

        return Choice.least(request, candidates, burden, "least_weighted")

    def _is_fast(self, candidate: Candidate) -> bool:
        return candidate.name.isdigit() and int(candidate.name) >= self.first


@dataclass(frozen=True, slots=True)
class WeightedLeastTokens(WeightedLeastRequest):
    """The same by tokens."""

    tokens: bool = True
