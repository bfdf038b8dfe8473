"""Instances that come and go, and what they cost."""

from __future__ import annotations

import math
from pathlib import Path

from block.latency.load import load_latency
from block.types import EngineLimits
from exp.cluster.membership import Membership
from exp.cluster.spec import SimulatedInstance

LATENCY = load_latency(Path(__file__).parents[3] / "config/latency/a30-llama-2-7b.yaml")
LIMITS = EngineLimits(16, 1052, 48, 512, 4096, async_scheduling=True)


def _members(*joins_s: float) -> Membership:
    members = Membership([SimulatedInstance(LIMITS, LATENCY, joins_s=each_s) for each_s in joins_s])
    for index, each_s in enumerate(joins_s):
        if each_s < math.inf:
            members.join(index, each_s)
    return members


def test_one_that_drains_is_paid_for_until_it_is_idle_and_can_be_called_after() -> None:
    members = _members(0.0)
    members.begin(0)
    members.drain(0, 10.0)
    assert members.eligible == []
    assert members.call(11.0) is None
    members.end(0, 25.0)
    assert members.served_s(99.0) == [25.0]
    assert members.call(100.0) == 0


def test_one_that_drains_can_be_taken_back_and_was_paid_for_all_the_time() -> None:
    members = _members(0.0, 0.0)
    members.begin(1)
    members.drain(1, 10.0)
    assert members.recall(1, 12.0)
    assert members.eligible == [0, 1]
    members.end(1, 20.0)
    assert members.served_s(30.0) == [30.0, 30.0]
    assert not members.recall(1, 30.0)


def test_one_that_starts_is_paid_for_from_the_call() -> None:
    members = _members(0.0, math.inf)
    assert members.call(10.0) == 1
    assert members.served_s(20.0) == [20.0, 10.0]
    members.join(1, 40.0)
    assert members.served_s(50.0) == [50.0, 40.0]
