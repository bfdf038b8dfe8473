"""A simulation laid out from the mirror's columns is, to the last bit, the one laid out from the state."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import numpy as np
from feed_messages import LIMITS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_workloads import Workload, workloads

from block.latency.base import KernelLatency
from block.simulation.columns import FIELDS, EngineColumns
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.loop import SCHEDULED, STUCK, advance
from block.simulation.resume import resume
from block.types import EngineLimits, EngineState, RequestState, RequestStatus
from exp.simulated_feed import SimulatedFeed
from predictor.mirror import Mirror

LATENCY = KernelLatency((1.0, 64.0, 2048.0), (0.01, 0.02, 0.4), per_context_token_s=1e-6)
STEPS = 60


def _states(workload: Workload, first: int) -> Iterator[EngineState]:
    """After some of the steps from ``first`` on."""
    simulation = EngineSimulation(workload.limits, LATENCY, workload.requests)
    steps = 0
    while steps < first + STEPS and (outcome := advance(simulation.memory.s, simulation.memory.f)) > STUCK:
        if outcome == SCHEDULED and (steps := steps + 1) >= first:
            yield simulation.state()


def _mirrored(workload: Workload, first: int) -> Iterator[tuple[EngineState, Mirror]]:
    feed, mirror = SimulatedFeed(), Mirror()
    for state in _states(workload, first):
        message = feed.delta(state) if mirror.ready else feed.snapshot(state)
        mirror.apply_bytes(msgspec.msgpack.encode(message))
        yield state, mirror


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(workload=workloads(), first=st.integers(1, 60))
def test_columns_and_states_are_laid_out_alike(workload: Workload, first: int) -> None:
    for state, mirror in _mirrored(workload, first):
        columns = mirror.columns()
        assert columns.state() == state
        np.testing.assert_array_equal(columns.numbers, EngineColumns.of(state).numbers)
        ours, theirs = (resume(each, LATENCY, {}, (), 1) for each in (columns, state))
        assert ours.ids == theirs.ids
        np.testing.assert_array_equal(ours.memory.s, theirs.memory.s)
        np.testing.assert_array_equal(ours.memory.f, theirs.memory.f)


def test_the_workloads_reach_preemption_and_cache_hits() -> None:
    """Else the property above would prove little."""
    source, kinds = random.Random(0), set()
    limits = EngineLimits(
        block_size=8,
        total_blocks=24,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_model_len=192,
        prefix_caching=True,
        async_scheduling=True,
    )
    requests = tuple(
        SimulatedRequest(f"r{i}", 0.02 * i, source.randint(20, 60), source.randint(10, 60), 100, 0, (1, 2))
        for i in range(20)
    )
    for state, mirror in _mirrored(Workload(limits, requests), 1):
        assert mirror.columns().state() == state
        kinds |= {(r.status, r.cached_tokens > 0) for r in (*state.running, *state.waiting)}
    assert {(RequestStatus.RUNNING, True), (RequestStatus.PREEMPTED, True)} <= kinds


def test_each_number_of_a_request_has_its_row() -> None:
    request = RequestState("a", RequestStatus.PREEMPTED, 4.5, 20, 50, 24, 5, 3, 2, 1, 16, -7)
    columns = EngineColumns.of(EngineState("e", 7, 5.0, LIMITS, waiting=(request,)))
    assert columns.request(0) == request
    for row, name in enumerate(FIELDS):
        assert columns.numbers[row, 0] == getattr(request, name)
