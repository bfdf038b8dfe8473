"""Orders, the widest gain and goals, judged on curves whose capacities are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from pydantic import ValidationError

from exp.experiment.claims import ExpectedOrder, Goal, WidestGain
from exp.experiment.spec import ExperimentSpec, PolicyVariant
from exp.experiment.summary import Row
from exp.experiment.verdict import compared, reached, widest


def rows(carried: Mapping[str, Sequence[float]], engine: str = "default") -> list[Row]:
    """Curves that pass 3 s at the given rates, one per seed: 1.5 s at half of it, 6 s at twice as much."""
    return [
        Row(policy, engine, "sharegpt", factor * rate, seed, {"ttft_p99_s": 3.0 * factor})
        for policy, by_seed in carried.items()
        for seed, rate in enumerate(by_seed)
        for factor in (0.5, 2.0)
    ]


def order(*pairs: tuple[str, str, str]) -> ExpectedOrder:
    return ExpectedOrder(slo_ttft_s=3.0, pairs=pairs)


SEEDS = {
    "a": [10.0, 20.0, 30.0],
    "b": [12.0, 24.1, 36.0],
    "same": [10.2, 19.8, 30.0],
    "random": [5.0, 25.0, 30.0],
}


@pytest.mark.parametrize(
    ("left", "relation", "right", "holds"),
    [
        ("a", "<", "b", "yes"),
        ("b", "<", "a", "no"),
        ("a", "<", "same", "not told apart"),
        ("a", "<=", "same", "yes"),
        ("b", "<=", "a", "no"),
        ("a", "~", "same", "yes"),
        ("a", "~", "b", "no"),
    ],
)
def test_an_order_holds_where_intervals_over_the_same_seeds_say_so(
    left: str, relation: str, right: str, holds: str
) -> None:
    (found,) = compared(order((left, relation, right)), rows(SEEDS))
    assert found.holds == holds


def test_one_seed_is_judged_by_its_sign_and_what_was_not_run_is_left_out() -> None:
    one = rows({"a": [10.0], "b": [10.1]})
    assert [pair.holds for pair in compared(order(("a", "<", "b"), ("a", "<", "c")), one)] == ["yes"]


@pytest.mark.parametrize("relation", ["~", "<", "<="])
def test_where_both_curves_ended_nothing_is_told(relation: str) -> None:
    ended = [Row(name, "default", "sharegpt", 5.0, 0, {"ttft_p99_s": 1.0}) for name in ("a", "b")]
    (found,) = compared(order(("a", relation, "b")), ended)
    assert found.holds == "not told apart"


def test_a_gain_is_widest_where_its_mean_is() -> None:
    claim = WidestGain(engine="small", slo_ttft_s=3.0, policy="b", over="a")
    small, large = {"a": [10.0], "b": [12.0]}, {"a": [10.0], "b": [11.0]}
    gains, holds = widest(claim, [*rows(small, "small"), *rows(large, "large")])
    assert (round(gains["small"].rate_per_s.mean, 2), holds) == (0.2, "yes")
    assert widest(claim, [*rows(large, "small"), *rows(small, "large")])[1] == "no"
    assert widest(claim, rows(small, "large")) == ({}, "-")
    # Both end below the SLO: nobody knows where they would have crossed.
    ended = [Row(name, "large", "sharegpt", 5.0, 0, {"ttft_p99_s": 1.0}) for name in ("a", "b")]
    assert "ended" in widest(claim, [*rows(small, "small"), *ended])[1]


def test_goals_are_met_missed_or_open_against_the_best() -> None:
    goal = Goal(policies=("b",), over=("worse", "a"), capacity_gain=0.15)
    found = {**SEEDS, "worse": [5.0, 5.0, 5.0]}
    (one,) = reached(goal, rows(found))
    assert (one.over, one.verdict) == ("a", "met")
    higher = goal.model_copy(update={"capacity_gain": 0.3})
    assert [one.verdict for one in reached(higher, rows(found))] == ["missed"]
    noisy = goal.model_copy(update={"policies": ("random",)})
    assert [one.verdict for one in reached(noisy, rows(found))] == ["open"]


def test_tails_are_judged_at_each_load() -> None:
    tails = {"a": (4.0, 4.4, 4.1), "b": (0.5, 0.5, 0.6), "c": (3.0, 3.0, 3.0)}
    same_load = [
        Row(policy, "default", "sharegpt", 9.0, seed, {"ttft_p99_s": value})
        for policy, by_seed in tails.items()
        for seed, value in enumerate(by_seed)
    ]
    goal = Goal(policies=("b", "c"), over=("a",), tail_cut=0.75)
    assert [(one.policy, one.rate_per_s, one.verdict) for one in reached(goal, same_load)] == [
        ("b", 9.0, "met"),
        ("c", 9.0, "missed"),
    ]


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"baselines": ("blok",)}, "policy blok: not in this spec; it has block"),
        ({"published_qps": {"default/sharegpt/4s": {"block": "1"}}}, "SLO default/sharegpt/4s"),
        ({"tables": ("speed",)}, "measure speed"),
        (
            {"goals": (Goal(engine="big", policies=("block",), over=("block",), tail_cut=0.5),)},
            "'big', 'sharegpt'",
        ),
    ],
)
def test_a_claim_about_what_is_not_run_is_refused(claim: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ExperimentSpec(title="t", policies={"block": PolicyVariant()}, rates_per_s=(1.0,), **claim)  # type: ignore[arg-type]
