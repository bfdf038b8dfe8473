"""The instance that has seen the prompt's beginning before."""

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
class PrefixAffinity:
    """Most cached tokens first, of equals the one with fewest requests; a prompt new to all goes where its
    first block hashes to.

    So copies of the scheduler agree where a shared beginning lives without having seen each other's
    requests; once several hold it, as they do a system prompt, it binds to none of them. An instance that
    holds too much is passed over.
    """

    needs: ClassVar[Needs] = Needs(prefixes=True)
    load_factor: Annotated[float, Field(strict=True, ge=1, le=100)] = 1.5
    """Multiple of the mean number of requests at which an instance is full."""
    always_allowed: Annotated[int, Field(strict=True, ge=1, le=65_536)] = 8
    """Requests below which no instance is full."""

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """By cached tokens, then load, then the first block's hash; no whole block: least_request."""
        if not request.prefix_digests:
            return LeastRequest().choose(request, candidates)
        leading = request.prefix_digests[0].to_bytes(8, "little")
        order = preference(leading, candidates)
        order.sort(key=_worth)
        ranked = within_bound_first(order, load_bound(candidates, self.load_factor, self.always_allowed))
        return Choice.of(ranked, "prefix" if ranked[0] is order[0] else "prefix_full")


def _worth(candidate: Candidate) -> tuple[int, int]:
    """Who has nothing cached is not told apart by load: else the first block would have no home."""
    return -candidate.cached_tokens, candidate.outstanding if candidate.cached_tokens else 0
