"""Session and prefix affinity: the same place for the same key, unless it is full."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from global_scheduler.policies import Candidate, RoutingRequest, make_policy
from global_scheduler.policies.load_bound import load_bound

REQUEST = RoutingRequest("id", "llama", 1000, 20, 100, 0, sequence=0, seed=0)
FLEET = [Candidate(f"instance-{number}", 0) for number in range(8)]


def keyed(policy: str, key: int) -> RoutingRequest:
    """A request of the ``key``-th session, or with the ``key``-th prompt; seeds differ."""
    if policy == "session":
        return replace(REQUEST, session=f"session-{key}", seed=key)
    return replace(REQUEST, prefix_digests=(key * 7919, key * 7919 + 1), seed=key)


def home(policy: str, key: int, fleet: list[Candidate]) -> str:
    return make_policy(policy).choose(keyed(policy, key), fleet).instance


@pytest.mark.parametrize("policy", ["session", "prefix_affinity"])
def test_a_key_has_one_home_whatever_the_seed_and_the_order(policy: str) -> None:
    for key in range(20):
        request = keyed(policy, key)
        homes = {
            make_policy(policy).choose(replace(request, seed=seed), fleet).instance
            for seed in range(5)
            for fleet in (FLEET, FLEET[::-1])
        }
        assert len(homes) == 1


@pytest.mark.parametrize("policy", ["session", "prefix_affinity"])
def test_homes_are_spread_evenly(policy: str) -> None:
    homes = Counter(home(policy, key, FLEET) for key in range(800))
    assert len(homes) == 8
    assert min(homes.values()) > 60


@pytest.mark.parametrize("policy", ["session", "prefix_affinity"])
def test_only_the_keys_of_an_instance_that_goes_move(policy: str) -> None:
    gone = FLEET[3].name
    left = [candidate for candidate in FLEET if candidate.name != gone]
    for key in range(200):
        before, after = home(policy, key, FLEET), home(policy, key, left)
        assert before in (after, gone)


@pytest.mark.parametrize("policy", ["session", "prefix_affinity"])
def test_a_full_home_is_passed_over_for_the_same_next_one(policy: str) -> None:
    choice = make_policy(policy).choose(keyed(policy, 1), FLEET)
    full = [replace(one, outstanding=50 if one.name == choice.instance else 1) for one in FLEET]
    escaped = make_policy(policy).choose(keyed(policy, 1), full)
    assert escaped.instance == choice.ranking[0]
    assert escaped.ranking[-1] == choice.instance
    assert (choice.reason, escaped.reason) == (
        ("session", "session_full") if policy == "session" else ("prefix", "prefix_full")
    )


@pytest.mark.parametrize("policy", ["session", "prefix_affinity"])
def test_a_few_requests_fill_nobody(policy: str) -> None:
    name = home(policy, 1, FLEET)
    busy = [replace(one, outstanding=7 if one.name == name else 0) for one in FLEET]
    assert home(policy, 1, busy) == name


@pytest.mark.parametrize("policy", ["session", "prefix_affinity"])
def test_without_a_key_the_fewest_outstanding_is_taken(policy: str) -> None:
    fleet = [Candidate("a", 2), Candidate("b", 1)]
    assert make_policy(policy).choose(REQUEST, fleet).instance == "b"


def test_prefix_affinity_prefers_who_has_seen_most_of_it() -> None:
    fleet = [replace(one, cached_tokens=100 * number) for number, one in enumerate(FLEET[:3])]
    choice = make_policy("prefix_affinity").choose(keyed("prefix_affinity", 1), fleet)
    assert (choice.instance, *choice.ranking) == ("instance-2", "instance-1", "instance-0")


def test_a_beginning_that_many_have_seen_goes_to_the_one_with_fewest_requests() -> None:
    """As a system prompt: one home for it would fill to its bound while others are idle."""
    fleet = [replace(one, cached_tokens=100, outstanding=5 - number) for number, one in enumerate(FLEET[:4])]
    for key in range(10):
        choice = make_policy("prefix_affinity").choose(keyed("prefix_affinity", key), [*fleet, FLEET[4]])
        assert (choice.instance, choice.ranking[-1]) == ("instance-3", "instance-4")


def test_the_bound_is_a_multiple_of_the_mean_with_a_floor() -> None:
    held = [Candidate("a", 30), Candidate("b", 9)]
    assert load_bound(held, 1.25, always_allowed=8) == 25  # 1.25 x 40 / 2
    assert load_bound(held, 1.0, always_allowed=30) == 30
