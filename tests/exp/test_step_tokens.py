"""Tokens from steps: chunks give none, the last chunk gives one, a preempted request computes anew."""

from __future__ import annotations

import pytest

from block.simulation.engine import SimulatedStep
from exp.host_overheads import HostOverheads
from exp.step_tokens import StepTokens

OUT = HostOverheads(first_out_s=0.5, way_out_s=0.25, way_out_per_request_s=0.125)


def step(
    index: int, scheduled: dict[str, int], preempted: tuple[str, ...] = (), free: int = 10
) -> SimulatedStep:
    return SimulatedStep(index, float(index), index + 1.0, scheduled, preempted, free)


def test_a_token_comes_when_all_is_computed_and_then_with_every_step() -> None:
    tokens = StepTokens({"a": (5, 3), "b": (1, 1)}, 10, OUT)
    for index, scheduled in enumerate(({"a": 3}, {"a": 2}, {"a": 1, "b": 1}, {"a": 1})):
        tokens.add(step(index, scheduled))
    assert tokens.of("a") == (2.0 + 0.5 + 0.125, 3.0 + 0.25 + 0.25, 4.0 + 0.25 + 0.125)
    assert tokens.of("b") == (3.0 + 0.5 + 0.25,)


def test_after_a_preemption_the_tokens_so_far_are_computed_again_and_none_comes_twice() -> None:
    tokens = StepTokens({"a": (4, 4)}, 10, HostOverheads())
    plan = (({"a": 4}, ()), ({"a": 1}, ()), ({}, ("a",)), ({"a": 4}, ()), ({"a": 2}, ()), ({"a": 1}, ()))
    for index, (scheduled, preempted) in enumerate(plan):
        tokens.add(step(index, scheduled, preempted))
    assert tokens.of("a") == (1.0, 2.0, 5.0, 6.0)
    assert tokens.preemptions == 1


def test_kv_use_is_weighted_by_time() -> None:
    tokens = StepTokens({"a": (1, 9)}, 10, HostOverheads())
    tokens.add(SimulatedStep(0, 0.0, 1.0, {"a": 1}, (), 5))
    tokens.add(SimulatedStep(1, 1.0, 4.0, {"a": 1}, (), 0))
    tokens.add(SimulatedStep(2, 4.0, 5.0, {"a": 1}, (), 10))
    assert tokens.kv_use_max == 1.0
    assert tokens.kv_use_mean == pytest.approx((1.0 * 0.0 + 3.0 * 0.5 + 1.0 * 1.0) / 5.0)
