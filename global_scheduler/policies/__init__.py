"""Routing policies, one small pure file each, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from block.errors import ConfigError
from global_scheduler.policies.base import Candidate, Choice, Policy, RoutingRequest
from global_scheduler.policies.block import Block
from global_scheduler.policies.least_request import LeastRequest
from global_scheduler.policies.random_choice import RandomChoice
from global_scheduler.policies.round_robin import RoundRobin

__all__ = ["POLICIES", "Candidate", "Choice", "Policy", "RoutingRequest", "make_policy"]

POLICIES: Mapping[str, Callable[[], Policy]] = {
    "block": Block,
    "least_request": LeastRequest,
    "random": RandomChoice,
    "round_robin": RoundRobin,
}


def make_policy(name: str) -> Policy:
    """Build the policy of that name. Raises ConfigError that lists the known ones."""
    factory = POLICIES.get(name)
    if factory is None:
        raise ConfigError(f"policy = {name!r}: unknown; known: {', '.join(POLICIES)}")
    return factory()
