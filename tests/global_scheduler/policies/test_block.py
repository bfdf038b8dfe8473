"""Block's objectives on predictions made by hand."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from block.types import Prediction, PredictionSpread
from global_scheduler.policies import Candidate, Policy, RoutingRequest, make_policy
from global_scheduler.policies.kit import check_policy, check_speed
from global_scheduler.policies.slo import miss

REQUEST = RoutingRequest("id", "llama", 10, 20, 100, 0, sequence=0, seed=0)


def candidate(name: str, ttft_s: float, e2e_s: float, harm_s: float = 0.0) -> Candidate:
    return Candidate(name, 0, Prediction(ttft_s, e2e_s, 0.01, harm_s, harm_s, 0, 0.0, "test@0", 1.0))


def in_scenarios(name: str, *times: tuple[float, float]) -> Candidate:
    """One whose predictor told (TTFT, E2E) of each scenario."""
    ttft, e2e = (tuple(column) for column in zip(*times, strict=True))
    means = candidate(name, sum(ttft) / len(ttft), sum(e2e) / len(e2e))
    return replace(means, spread=PredictionSpread(len(times), 0.0, max(ttft), 0.0, max(e2e), ttft, e2e))


def block(**options: object) -> Policy:
    return make_policy("block", options)


@pytest.mark.parametrize("objective", ["completion", "ttft", "slo", "harm"])
def test_every_objective_passes_the_kit_and_is_quick(objective: str) -> None:
    check_policy(block(objective=objective))
    check_speed(block(objective=objective))


def test_each_objective_takes_what_it_says() -> None:
    fleet = [
        candidate("done first", 2.0, 5.0, harm_s=9.0),
        candidate("begins first", 0.1, 6.0, harm_s=8.5),
        candidate("hurts least", 3.0, 7.0, harm_s=1.0),
    ]
    request = replace(REQUEST, slo_ttft_s=0.5)
    chosen = {
        objective: block(objective=objective, ttft_weight=0).choose(request, fleet).instance
        for objective in ("completion", "ttft", "slo", "harm")
    }
    assert chosen == {
        "completion": "done first",
        "ttft": "begins first",
        "slo": "begins first",
        "harm": "hurts least",
    }


def test_the_reason_claims_no_earliest_completion_where_it_is_not() -> None:
    fleet = [candidate("late but quick", 2.0, 5.0), candidate("at once but slow", 0.5, 6.0)]
    choice = block().choose(REQUEST, fleet)
    assert (choice.instance, choice.reason) == ("at once but slow", "least_own_time")


def test_a_harm_of_1_without_a_weight_is_min_latency_and_slo_without_objectives_completion() -> None:
    """As docs/policies.md says."""
    fleet = [
        candidate("a", 2.0, 5.0, harm_s=2.0),
        candidate("b", 0.1, 6.0, harm_s=0.5),
        candidate("c", 1.0, 5.5, 9.0),
    ]
    for options, same in (
        ({"objective": "harm"}, make_policy("min_latency")),
        ({"objective": "slo"}, block(ttft_weight=0)),
    ):
        one, other = block(**options, ttft_weight=0).choose(REQUEST, fleet), same.choose(REQUEST, fleet)
        assert (one.instance, one.ranking) == (other.instance, other.ranking)


def test_the_weight_of_harm_decides_how_much_others_count() -> None:
    fleet = [candidate("selfish", 1.0, 5.0, harm_s=4.0), candidate("kind", 1.0, 6.0, harm_s=0.0)]
    assert block(objective="harm", harm_weight=0.2).choose(REQUEST, fleet).instance == "selfish"
    assert block(objective="harm", harm_weight=0.3).choose(REQUEST, fleet).instance == "kind"
    assert block(objective="harm", harm_weight=0).choose(REQUEST, fleet).instance == "selfish"


def test_waiting_for_the_first_token_may_count_more_than_the_rest() -> None:
    fleet = [candidate("late but quick", 2.0, 5.0), candidate("at once but slow", 0.5, 6.0)]
    assert block(ttft_weight=0).choose(REQUEST, fleet).instance == "late but quick"
    assert block(ttft_weight=0.6).choose(REQUEST, fleet).instance == "late but quick"
    assert block(ttft_weight=0.7).choose(REQUEST, fleet).instance == "at once but slow"
    assert block().choose(REQUEST, fleet).instance == "at once but slow"
    kind = [candidate("selfish", 2.0, 5.0, harm_s=1.5), candidate("kind", 0.5, 6.0, harm_s=0.0)]
    harm = {"objective": "harm", "harm_weight": 0.1}
    assert block(**harm, ttft_weight=0).choose(REQUEST, kind).instance == "selfish"
    assert block(**harm, ttft_weight=0.6).choose(REQUEST, kind).instance == "kind"


def test_min_latency_counts_own_time_and_harm_alike() -> None:
    fleet = [candidate("selfish", 1.0, 5.0, harm_s=1.1), candidate("kind", 1.0, 6.0, harm_s=0.0)]
    assert make_policy("min_latency").choose(REQUEST, fleet).instance == "kind"
    fleet[0] = candidate("selfish", 1.0, 5.0, harm_s=0.9)
    assert make_policy("min_latency").choose(REQUEST, fleet).instance == "selfish"


def test_the_chance_of_a_miss_comes_from_the_scenarios_not_the_mean() -> None:
    """Mean 6 s either way is within 8 s; one of them misses in one scenario of four."""
    steady = in_scenarios("steady", *[(0.1, 6.0)] * 4)
    risky = in_scenarios("risky", (0.1, 3.0), (0.1, 3.0), (0.1, 3.0), (0.1, 14.9))
    request = replace(REQUEST, slo_e2e_s=8.0)
    assert block(objective="completion").choose(request, [steady, risky]).instance == "risky"
    assert block(objective="slo").choose(request, [steady, risky]).instance == "steady"
    assert miss(request, risky) == (0.25, pytest.approx(6.9 / 4))
    assert miss(request, steady) == (0.0, 0.0)


def test_a_scenario_misses_if_either_objective_is_missed() -> None:
    both = in_scenarios("both", (2.0, 5.0), (0.5, 20.0), (0.5, 5.0), (2.0, 20.0))
    assert miss(replace(REQUEST, slo_ttft_s=1.0, slo_e2e_s=10.0), both)[0] == 0.75
    assert miss(replace(REQUEST, slo_ttft_s=1.0), both)[0] == 0.5
    assert miss(REQUEST, both) == (0.0, 0.0)


def test_where_all_miss_the_least_late_is_taken() -> None:
    fleet = [in_scenarios("late", (5.0, 9.0)), in_scenarios("less late", (4.0, 30.0))]
    choice = block(objective="slo").choose(replace(REQUEST, slo_ttft_s=1.0), fleet)
    assert choice.instance == "less late"


def test_without_scenarios_the_mean_decides_and_without_objectives_completion() -> None:
    fleet = [candidate("late", 2.0, 5.0), candidate("on time", 0.5, 6.0)]
    assert block(objective="slo").choose(replace(REQUEST, slo_ttft_s=1.0), fleet).instance == "on time"
    assert block(objective="slo").choose(REQUEST, fleet).instance == "late"
