"""Engines that share layers of experts step together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from operator_profiles import layer_profile, write_csv

from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.types import EngineLimits
from vidur_adapter.batch import StepBatch
from vidur_adapter.experts import Experts
from vidur_adapter.llmservingsim import LayerProfile, Link
from vidur_adapter.lockstep import run_in_lockstep
from vidur_adapter.model import OperatorModel
from vidur_adapter.replay import Replay

LIMITS = EngineLimits(16, 4096, 32, 512, 4096, async_scheduling=True)
SLOW, QUICK = KernelLatency((1.0, 512.0), (0.02, 0.02)), KernelLatency((1.0, 512.0), (0.005, 0.005))


def replay(kernel: KernelLatency, *arrivals: SimulatedRequest, model: OperatorModel | None = None) -> Replay:
    return Replay(EngineSimulation(LIMITS, kernel, arrivals), model)


def test_the_quicker_waits_for_the_slower() -> None:
    request = SimulatedRequest("a", 0.0, 100, 50)
    (slow,), (quick,) = run_in_lockstep([replay(SLOW, request), replay(QUICK, request)])
    assert (slow.finish_s, quick.finish_s) == (pytest.approx(1.0), pytest.approx(1.0))


def test_an_engine_whose_neighbour_is_idle_goes_at_its_own_pace() -> None:
    early, late = SimulatedRequest("a", 0.0, 100, 20), SimulatedRequest("b", 10.0, 100, 20)
    (first,), (second,) = run_in_lockstep([replay(QUICK, early), replay(SLOW, late)])
    assert first.finish_s == pytest.approx(20 * 0.005)
    assert second.finish_s == pytest.approx(10 + 20 * 0.02)


def test_who_comes_during_a_neighbours_step_waits_for_its_end() -> None:
    running, coming = SimulatedRequest("a", 0.0, 100, 20), SimulatedRequest("b", 0.0301, 100, 1)
    _, (second,) = run_in_lockstep([replay(SLOW, running), replay(QUICK, coming)])
    assert second.first_token_s == pytest.approx(0.06)


def test_experts_compute_for_both_engines(tmp_path: Path) -> None:
    folder = layer_profile(tmp_path)
    points = [(tokens, experts, 10 + tokens + experts) for tokens in (1, 64, 512) for experts in (1, 8, 64)]
    write_csv(folder / "tp1" / "moe.csv", "tokens,activated_experts,time_us", points)
    experts, link = Experts(total=64, per_token=4, devices=2, engines=2), Link(1e6, 0.0)
    model = LayerProfile(folder, 2, 64, link=link, experts=experts).model()
    batch = StepBatch((), (100.0,) * 32)
    alone, beside = (float(model.time([batch], tokens).seconds[0]) for tokens in (32.0, 96.0))
    more_experts = 32 * ((1 - 4 / 64) ** 64 - (1 - 4 / 64) ** 128)
    assert (beside - alone) * 1e6 == pytest.approx(2 * (32 + more_experts), rel=0.01)


def test_activated_experts_are_those_that_any_token_chose() -> None:
    experts = Experts(total=64, per_token=4, devices=2)
    found = experts.activated(np.array([1.0, 16.0, 10_000.0]))
    assert found.tolist() == pytest.approx([2.0, 32 * (1 - (60 / 64) ** 16), 32.0])
