"""Every policy is pure and names a candidate; each one prefers what it says."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from block.types import Prediction
from global_scheduler.policies import POLICIES, Candidate, RoutingRequest, make_policy
from global_scheduler.policies.kit import check_policy, check_speed

REQUEST = RoutingRequest("id", "llama", 10, 20, 100, 0, sequence=0, seed=0)
PREDICTION = Prediction(0.1, 1.0, 0.01, 0.0, 0.0, 0, 0.0, "test@0", 1.0)


def predicted(name: str, e2e_s: float | None, outstanding: int = 0) -> Candidate:
    return Candidate(
        name, outstanding, None if e2e_s is None else dataclasses.replace(PREDICTION, e2e_s=e2e_s)
    )


candidates = st.lists(
    st.builds(
        predicted,
        st.text("abcdef", min_size=1, max_size=4),
        st.none() | st.floats(0, 1e6),
        st.integers(0, 500),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda candidate: candidate.name,
)
requests = st.builds(
    replace,
    st.just(REQUEST),
    sequence=st.integers(0, 2**40),
    seed=st.integers(0, 2**32),
    id=st.text(max_size=9),
)


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None)  # a busy machine may stall in any example
@given(request_=requests, fleet=candidates)
def test_choices_are_pure_and_rank_every_candidate_once(name, request_, fleet):
    before = list(fleet)
    state = random.getstate()
    choice = make_policy(name).choose(request_, fleet)
    assert sorted((choice.instance, *choice.ranking)) == sorted(candidate.name for candidate in fleet)
    assert choice == make_policy(name).choose(request_, tuple(fleet))
    assert fleet == before
    assert random.getstate() == state


@settings(deadline=None)  # a busy machine may stall in any example
@given(request_=requests, fleet=candidates)
def test_block_takes_the_earliest_completion_and_ranks_the_unanswered_last(request_, fleet):
    by_name = {candidate.name: candidate for candidate in fleet}
    choice = make_policy("block", {"ttft_weight": 0}).choose(request_, fleet)
    order = [by_name[name].prediction for name in (choice.instance, *choice.ranking)]
    answered = [prediction.e2e_s * 1e6 // 1 for prediction in order if prediction]
    assert answered == sorted(answered)
    assert all(prediction is None for prediction in order[len(answered) :])


def test_block_breaks_ties_by_outstanding_then_by_seed():
    tied = [
        predicted("a", 1.0, 5),
        predicted("b", 1.0, 2),
        predicted("c", 1.0 + 1e-12, 2),
        predicted("d", 3.0, 0),
    ]
    chosen = Counter(
        make_policy("block").choose(replace(REQUEST, seed=seed), tied).instance for seed in range(200)
    )
    assert set(chosen) == {"b", "c"}
    assert min(chosen.values()) > 60


@settings(deadline=None)  # a busy machine may stall in any example
@given(request_=requests, fleet=candidates)
def test_least_request_takes_the_fewest_outstanding(request_, fleet):
    choice = make_policy("least_request").choose(request_, fleet)
    outstanding = {candidate.name: candidate.outstanding for candidate in fleet}
    assert outstanding[choice.instance] == min(outstanding.values())


def test_least_request_spreads_ties():
    fleet = [Candidate(name, 0) for name in "abc"]
    policy = make_policy("least_request")
    chosen = Counter(policy.choose(replace(REQUEST, seed=seed), fleet).instance for seed in range(300))
    assert min(chosen.values()) > 60


def test_round_robin_takes_turns():
    fleet = [Candidate(name, 0) for name in "abc"]
    policy = make_policy("round_robin")
    turns = [policy.choose(replace(REQUEST, sequence=sequence), fleet) for sequence in range(5)]
    assert [turn.instance for turn in turns] == ["a", "b", "c", "a", "b"]
    assert turns[1].ranking == ("c", "a")


def test_random_is_even_over_seeds():
    fleet = [Candidate(name, 0) for name in "abcd"]
    policy = make_policy("random")
    chosen = Counter(policy.choose(replace(REQUEST, seed=seed), fleet).instance for seed in range(2000))
    assert min(chosen.values()) > 400


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_passes_the_kit(name):
    check_policy(make_policy(name))


@pytest.mark.parametrize("name", POLICIES)
def test_a_choice_among_16_costs_next_to_nothing(name):
    check_speed(make_policy(name))


def test_only_some_policies_cost_a_probe_or_a_digest():
    needs = {name: make_policy(name).needs for name in POLICIES}
    assert [name for name, need in needs.items() if need.predictions] == ["block", "min_latency"]
    assert [name for name, need in needs.items() if need.load] == [
        "block_nosim",
        "infaas",
        "infaas_textbook",
        "llumnix",
        "llumnix_textbook",
        "lmetric",
    ]
    assert [name for name, need in needs.items() if need.prefixes] == ["lmetric", "prefix_affinity"]


def test_min_qpm_takes_the_one_that_got_fewest_of_late():
    fleet = [Candidate("a", 0, sent_last_minute=9), Candidate("b", 7, sent_last_minute=3)]
    assert make_policy("min_qpm").choose(REQUEST, fleet).instance == "b"


def test_power_of_two_takes_the_lighter_of_the_pair_it_draws():
    """By tokens, not by requests; the heaviest of all is never the lighter of a pair."""
    fleet = [
        Candidate("few long", 1, outstanding_tokens=5000),
        Candidate("many short", 9, outstanding_tokens=900),
        Candidate("none", 0),
    ]
    policy = make_policy("power_of_two")
    chosen = Counter(policy.choose(replace(REQUEST, seed=seed), fleet).instance for seed in range(300))
    assert set(chosen) == {"many short", "none"}
    assert chosen["none"] == pytest.approx(200, abs=40)  # two of three pairs hold it


def test_power_of_more_draws_more():
    fleet = [Candidate(name, number, outstanding_tokens=number) for number, name in enumerate("abcdefgh")]
    policy = make_policy("power_of_two", {"choices": 8})
    assert policy.choose(REQUEST, fleet).instance == "a"
