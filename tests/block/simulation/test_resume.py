"""A run that is captured and resumed goes on as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from simulated_workloads import Workload, workloads

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation.engine import EngineSimulation
from block.simulation.loop import SCHEDULED, STUCK, advance
from block.simulation.resume import resume
from block.simulation.run import run
from block.types import (
    Arrival,
    BatchShape,
    EngineLimits,
    EngineState,
    InFlightStep,
    RequestState,
    RequestStatus,
)

LIMITS = EngineLimits(
    block_size=16, total_blocks=64, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=512
)
RUNNING = RequestState("a", RequestStatus.RUNNING, 0.0, 20, 50, computed_tokens=24, generated_tokens=5)

IN_FLIGHT = replace(RUNNING, computed_tokens=25, in_flight_tokens=1, newest_tokens=1)
STEP = InFlightStep(7, 4.9, BatchShape.of([(1, 25)]))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(workload=workloads(), stop_after=st.integers(1, 200))
def test_resuming_a_captured_state_changes_no_finish_time(
    workload: Workload, stop_after: int, latency: KernelLatency
) -> None:
    limits = replace(workload.limits, prefix_caching=False)
    # Nobody knows beforehand which clients will leave.
    requests = [replace(request, abort_s=None) for request in workload.requests]
    simulation = EngineSimulation(limits, latency, requests)
    scheduled = 0
    while scheduled < stop_after:
        outcome = advance(simulation.memory.s, simulation.memory.f)
        assume(outcome > STUCK)
        scheduled += outcome == SCHEDULED
    state = simulation.state()
    present = {request.id for request in (*state.running, *state.waiting)}
    times = {r.id: simulation.memory.times[i, layout.FINISH] for i, r in enumerate(simulation.requests)}
    later = [
        Arrival(r.id, r.arrival_s, r.prompt_tokens, r.output_tokens, r.max_tokens or 0, r.priority)
        for r in workload.requests
        if r.id not in present and np.isnan(times[r.id])
    ]
    lengths = {request.id: request.output_tokens for request in workload.requests}
    resumed = resume(state, latency, lengths, later)
    simulation.run()
    run(resumed.memory.s, resumed.memory.f)
    expected = {r.id: simulation.memory.times[i, layout.FINISH] for i, r in enumerate(simulation.requests)}
    for column, name in enumerate(resumed.ids):
        assert resumed.memory.times[column, layout.FINISH] + state.time_s == pytest.approx(
            expected[name], abs=1e-9, nan_ok=True
        )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"free_blocks": -1}, "free_blocks"),
        ({"free_blocks": 65}, "free_blocks"),
        ({"free_blocks": 64}, "free_blocks"),
        ({"running": (replace(RUNNING, computed_tokens=-1),)}, "computed_tokens"),
        ({"running": (replace(RUNNING, computed_tokens=25),)}, "computed_tokens"),
        ({"running": (replace(RUNNING, max_tokens=0),)}, "max_tokens"),
        ({"running": (replace(RUNNING, newest_tokens=1),)}, "newest_tokens"),
        ({"running": (replace(RUNNING, id="odd", prompt_tokens=0),)}, "request odd: prompt_tokens = 0"),
        ({"running": (replace(RUNNING, generated_tokens=-2),)}, "generated_tokens = -2"),
        ({"waiting": (replace(RUNNING, arrival_s=np.nan),)}, "request a: arrival_s = nan"),
        ({"waiting": (replace(RUNNING, cached_tokens=-3),)}, "cached_tokens = -3"),
        ({"running": (replace(RUNNING, in_flight_tokens=1),)}, "in_flight_tokens without a step"),
        ({"running": (IN_FLIGHT,) * 9, "in_flight": (STEP,), "free_blocks": 46}, "max_num_seqs = 8"),
        ({"in_flight": (STEP,) * 3}, "in_flight: 3 steps"),
        ({"waiting": (replace(RUNNING, prompt_tokens=512, computed_tokens=0),)}, "can never come to its end"),
        ({"waiting": (replace(RUNNING, generated_tokens=492, computed_tokens=0),)}, "generated_tokens = 492"),
        ({"limits": replace(LIMITS, total_blocks=1), "free_blocks": 0}, "17 tokens are the most"),
        ({"limits": replace(LIMITS, block_size=0)}, "block_size"),
        ({"limits": replace(LIMITS, policy="lottery")}, "policy"),
    ],
)
def test_states_that_contradict_themselves_are_refused(change, named, latency: KernelLatency) -> None:
    state = EngineState("e", 7, 5.0, LIMITS, running=(RUNNING,), free_blocks=62)
    resume(state, latency, {})
    with pytest.raises(StateError, match=named):
        resume(replace(state, **change), latency, {})
