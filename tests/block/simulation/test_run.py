"""Leaping and gliding change nothing: not a token, not a block, not a bit of a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_workloads import Workload, workloads

from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.glide import glide
from block.simulation.leap import leap
from block.simulation.loop import STUCK, advance
from block.simulation.run import run, run_stepwise
from block.types import EngineLimits
from exp.random_engine import random_workload

KEPT = (
    layout.STATUS,
    layout.GENERATED,
    layout.PREEMPTIONS,
    layout.HIT_TOKENS,
    layout.BLOCKS,
    layout.CACHED_BLOCKS,
)
COUNTERS = (layout.FREE_BLOCKS, layout.PREEMPTIONS_DONE, layout.STEPS, layout.OUTSIDE_STEPS)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(workload=workloads())
def test_running_equals_stepping_to_the_last_bit(workload: Workload, latency: KernelLatency) -> None:
    leaping, stepping = (EngineSimulation(workload.limits, latency, workload.requests) for _ in range(2))
    assert run(leaping.memory.s, leaping.memory.f) == run_stepwise(stepping.memory.s, stepping.memory.f)
    assert leaping.memory.times.tobytes() == stepping.memory.times.tobytes()
    for field in KEPT:
        np.testing.assert_array_equal(leaping.memory.requests[:, field], stepping.memory.requests[:, field])
    for counter in COUNTERS:
        assert leaping.memory.s[counter] == stepping.memory.s[counter]
    assert leaping.memory.f[layout.NOW] == stepping.memory.f[layout.NOW]


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


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(workload=workloads(), step=st.integers(0, 300))
def test_gliding_may_begin_anywhere(workload: Workload, step: int, latency: KernelLatency) -> None:
    """After any number of steps, with requests mid-prefill, preempted or about to end."""
    limits = replace(workload.limits, prefix_caching=False)
    gliding, stepping = (EngineSimulation(limits, latency, workload.requests) for _ in range(2))
    for _ in range(step):
        if advance(gliding.memory.s, gliding.memory.f) <= STUCK:
            break
    run(gliding.memory.s, gliding.memory.f)
    run_stepwise(stepping.memory.s, stepping.memory.f)
    assert gliding.memory.times.tobytes() == stepping.memory.times.tobytes()


@pytest.mark.parametrize("seed", range(120))
def test_running_from_the_middle_equals_stepping(seed: int, latency: KernelLatency) -> None:
    """Engines of the full ranges, prefix caching and aborts to come among them."""
    workload = random_workload(seed, 40)
    started = EngineSimulation(workload.limits, latency, workload.requests).memory
    for _ in range(seed * 3):
        advance(started.s, started.f)
    running, stepping = started.copy(), started.copy()
    assert run(running.s, running.f) == run_stepwise(stepping.s, stepping.f)
    assert running.times.tobytes() == stepping.times.tobytes()


def test_a_crowd_is_glided_over(latency: KernelLatency) -> None:
    limits = EngineLimits(
        block_size=16, total_blocks=640, max_num_seqs=32, max_num_batched_tokens=64, max_model_len=512
    )
    requests = [SimulatedRequest(f"r{i}", 0.01 * i, 20 + i, 100 + 7 * i) for i in range(40)]
    simulation = EngineSimulation(limits, latency, requests)
    s, f = simulation.memory.s, simulation.memory.f
    actions = 1
    while advance(s, f) > STUCK:
        glide(s, f)
        actions += 1
    assert simulation.step_count > 500
    assert actions < 30
