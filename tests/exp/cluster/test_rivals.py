"""Heuristics that were told by hand what a pool is made of."""

from __future__ import annotations

from global_scheduler.policies import Candidate, RoutingRequest, make_policy
from global_scheduler.policies.kit import check_policy

NAME = "exp.cluster.rivals:WeightedLeastRequest"
REQUEST = RoutingRequest("id", "llama", 10, 20, 100, 0, sequence=0, seed=0)


def chosen(fleet: list[Candidate], **options: object) -> str:
    return make_policy(NAME, options).choose(REQUEST, fleet).instance


def test_a_fast_instance_takes_as_many_more_as_it_weighs() -> None:
    for held, best in ((6, "1"), (8, "0")):
        fleet = [Candidate("0", 1), Candidate("1", held)]
        assert chosen(fleet, first=1, weight=4.0) == best
        assert chosen(fleet, first=1, weight=1.0) == "0"


def test_tokens_count_where_they_are_asked_for() -> None:
    fleet = [Candidate("0", 1, outstanding_tokens=300), Candidate("1", 5, outstanding_tokens=500)]
    assert chosen(fleet, first=1, weight=2.0) == "0"
    assert chosen(fleet, first=1, weight=2.0, tokens=True) == "1"


def test_it_is_a_policy_like_others() -> None:
    check_policy(make_policy(NAME, {"first": 3, "weight": 2.0}))
    check_policy(make_policy("exp.cluster.rivals:WeightedLeastTokens"))
