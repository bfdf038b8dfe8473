"""The same instance for all requests of one session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest
from global_scheduler.policies.least_request import LeastRequest
from global_scheduler.policies.load_bound import load_bound, within_bound_first
from global_scheduler.policies.rendezvous import preference


@dataclass(frozen=True, slots=True)
class Session:
    """Consistent hashing of the session; an instance that holds too much is passed over."""

    needs: ClassVar[Needs] = Needs(lengths=False)
    load_factor: Annotated[float, Field(strict=True, ge=1, le=100)] = 1.25
    """Multiple of the mean number of requests at which an instance is full."""
    always_allowed: Annotated[int, Field(strict=True, ge=1, le=65_536)] = 8
    """Requests below which no instance is full."""

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """The session's order of preference, full ones last; without a session, least_request."""
        if not request.session:
            return LeastRequest().choose(request, candidates)
        order = preference(request.session.encode("utf-8", "surrogatepass"), candidates)
        ranked = within_bound_first(order, load_bound(candidates, self.load_factor, self.always_allowed))
        return Choice.of(ranked, "session" if ranked[0] is order[0] else "session_full")
