"""Every policy is pure and names a candidate; each one prefers what it says."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from block.errors import ConfigError
from block.types import Prediction
from global_scheduler.policies import POLICIES, Candidate, RoutingRequest, make_policy

REQUEST = RoutingRequest("id", "llama", 10, 20, 100, 0, sequence=0, seed=0)
PREDICTION = Prediction(0.1, 1.0, 0.01, 0.0, 0.0, 0, 0.0, "test@0", 1.0)


def predicted(name: str, e2e_s: float | None, outstanding: int = 0) -> Candidate:
    return Candidate(name, outstanding, None if e2e_s is None else replace(PREDICTION, e2e_s=e2e_s))


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
@given(request_=requests, fleet=candidates)
def test_choices_are_pure_and_rank_every_candidate_once(name, request_, fleet):
    before = list(fleet)
    state = random.getstate()
    choice = make_policy(name).choose(request_, fleet)
    assert sorted((choice.instance, *choice.ranking)) == sorted(candidate.name for candidate in fleet)
    assert choice == make_policy(name).choose(request_, tuple(fleet))
    assert fleet == before
    assert random.getstate() == state


@given(request_=requests, fleet=candidates)
def test_block_takes_the_earliest_completion_and_ranks_the_unanswered_last(request_, fleet):
    by_name = {candidate.name: candidate for candidate in fleet}
    choice = make_policy("block").choose(request_, fleet)
    order = [by_name[name].prediction for name in (choice.instance, *choice.ranking)]
    answered = [prediction.e2e_s for prediction in order if prediction]
    assert answered == sorted(answered)
    assert all(prediction is None for prediction in order[len(answered) :])


def test_block_breaks_ties_by_outstanding_then_by_seed():
    tied = [predicted("a", 1.0, 5), predicted("b", 1.0, 2), predicted("c", 1.0, 2), predicted("d", 3.0, 0)]
    chosen = Counter(
        make_policy("block").choose(replace(REQUEST, seed=seed), tied).instance for seed in range(200)
    )
    assert set(chosen) == {"b", "c"}
    assert min(chosen.values()) > 60


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


def test_only_block_asks_predictors():
    assert [name for name in POLICIES if make_policy(name).uses_predictions] == ["block"]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ConfigError, match="'blok': unknown; known: block, least_request, random, round_robin"
    ):
        make_policy("blok")
