"""Leaping changes nothing: not a token, not a block, not a bit of a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from simulated_workloads import Workload, workloads

from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.leap import leap, run, run_stepwise
from block.simulation.loop import advance
from block.types import EngineLimits
from exp.random_engine import random_workload


def _kept(memory) -> np.ndarray:
    """All but scratch: leaping's buckets, and seats of batches long processed."""
    s = memory.s.copy()
    s[s[layout.BUCKETS] : s[layout.SHARED]] = 0
    s[s[layout.BATCH_SEATS] : s[layout.BUCKETS]] = 0
    s[layout.BATCH : layout.HEADER] = 0
    return s


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(workload=workloads())
def test_leaping_equals_stepping_to_the_last_bit(workload: Workload, latency: KernelLatency) -> None:
    leaping, stepping = (EngineSimulation(workload.limits, latency, workload.requests) for _ in range(2))
    assert run(leaping.memory.s, leaping.memory.f) == run_stepwise(stepping.memory.s, stepping.memory.f)
    assert leaping.memory.times.tobytes() == stepping.memory.times.tobytes()
    np.testing.assert_array_equal(_kept(leaping.memory), _kept(stepping.memory))


@pytest.mark.parametrize("seed", range(120))
def test_leaping_from_the_middle_of_a_run_equals_stepping(seed: int, latency: KernelLatency) -> None:
    """Prompts under way, requests preempted with output in flight, aborts to come."""
    workload = random_workload(seed, 40)
    started = EngineSimulation(workload.limits, latency, workload.requests).memory
    for _ in range(seed * 3):
        advance(started.s, started.f)
    leaping, stepping = started.copy(), started.copy()
    assert run(leaping.s, leaping.f) == run_stepwise(stepping.s, stepping.f)
    assert leaping.times.tobytes() == stepping.times.tobytes()
    np.testing.assert_array_equal(_kept(leaping), _kept(stepping))


def test_a_long_response_is_leapt_over(latency: KernelLatency) -> None:
    limits = EngineLimits(
        block_size=16, total_blocks=64, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=512
    )
    simulation = EngineSimulation(limits, latency, [SimulatedRequest("a", 0.0, 20, 400)])
    s, f = simulation.memory.s, simulation.memory.f
    actions = 0
    while advance(s, f) > 1:
        leap(s, f)
        actions += 1
    assert simulation.step_count == 400
    assert actions < 10
