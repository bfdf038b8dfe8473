"""A fleet's engines are the engines of the simulation, whoever sends what when."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_workloads import Workload, workloads

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation import fleet_memory, layout
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.fleet import EngineFleet
from block.simulation.fleet_members import FleetEngine, FleetRequests
from block.simulation.length_rows import length_rows
from block.simulation.turnover import FATE_FINISH, FATE_FIRST_TOKEN, FATE_HITS, FATE_PREEMPTIONS
from block.simulation.what_if_runs import TTFT
from block.types import EngineLimits

LATENCY = KernelLatency((1.0, 64.0, 512.0), (0.02, 0.022, 0.06), 7e-7, 6e-9, 1e-5)
LIMITS = EngineLimits(16, 300, 16, 128, 2048, async_scheduling=True)


def _fleet_requests(requests: list[SimulatedRequest], hash_tokens: int = 16) -> FleetRequests:
    outputs = np.array([request.output_tokens for request in requests], np.int64)
    return FleetRequests(
        prompt_tokens=np.array([request.prompt_tokens for request in requests], np.int64),
        output_tokens=outputs,
        max_tokens=np.array([request.max_tokens or request.output_tokens for request in requests], np.int64),
        lengths=length_rows(np.array([0.5]), outputs[:, None].astype(np.float64)),
        priority=np.array([request.priority for request in requests], np.int64),
        ids=[request.id for request in requests],
        block_hashes=[request.block_hashes for request in requests],
        hash_tokens=hash_tokens,
    )


def _plain(workload: Workload) -> tuple[EngineLimits, list[SimulatedRequest]]:
    """Without what a fleet does not know: clients that leave, ids that are not in order."""
    return workload.limits, [
        replace(request, id=f"{index:03}", abort_s=None) for index, request in enumerate(workload.requests)
    ]


@settings(deadline=None)
@given(workload=workloads(), seed=st.integers(0, 2**32))
def test_an_engine_does_what_it_does_alone(workload: Workload, seed: int) -> None:
    """Whatever the slices in which time passes, to the last bit; with records that run short."""
    limits, requests = _plain(workload)
    alone = EngineSimulation(limits, LATENCY, requests)
    alone.run()
    source = random.Random(seed)
    told = _fleet_requests(requests, limits.block_size)
    fleet = EngineFleet([FleetEngine(limits, LATENCY)] * 2, told, records=1)
    for number, request in enumerate(requests):
        if source.random() < 0.5:
            fleet.run_until(request.arrival_s * source.random())
        fleet.send(number, 1, request.arrival_s)
    fleet.run_until(np.inf)
    assert fleet.done[0] == len(requests)
    for fate, outcome in zip(fleet.fates, alone.outcomes(), strict=True):
        assert fate[FATE_FIRST_TOKEN] == outcome.first_token_s
        assert fate[FATE_FINISH] == outcome.finish_s
        assert fate[FATE_PREEMPTIONS] == outcome.preemptions
        assert fate[FATE_HITS] == min(outcome.hit_tokens, requests[int(outcome.id)].prompt_tokens)
    free = fleet.figures((layout.FREE_BLOCKS,))[:, 0]
    assert free.tolist() == [limits.total_blocks] * 2


def test_records_are_used_again() -> None:
    requests = [SimulatedRequest(f"{i:04}", i * 0.2, 20, 5) for i in range(500)]
    fleet = EngineFleet([FleetEngine(LIMITS, LATENCY)], _fleet_requests(requests))
    room = fleet.records
    for number, request in enumerate(requests):
        fleet.run_until(request.arrival_s)
        fleet.send(number, 0, request.arrival_s)
    fleet.run_until(np.inf)
    assert fleet.records == room
    assert fleet.done[0] == len(requests)


def test_a_failing_engine_gives_up_all_it_has() -> None:
    requests = [SimulatedRequest(f"{i:02}", i * 0.001, 60, 40) for i in range(40)]
    fleet = EngineFleet([FleetEngine(LIMITS, LATENCY)], _fleet_requests(requests))
    for number in range(40):
        fleet.send(number, 0, requests[number].arrival_s)
    fleet.run_until(0.6)
    ended = set(fleet.done[1 : 1 + fleet.done[0]].tolist())
    lost = fleet.fail(0)
    assert {number for number, _ in lost} | ended == set(range(40))
    assert {begun for _, begun in lost} == {True, False}
    fleet.send(7, 0, 0.7)
    fleet.run_until(np.inf)
    assert fleet.done[fleet.done[0]] == 7
    assert fleet.figures((layout.FREE_BLOCKS,))[0, 0] == LIMITS.total_blocks


def test_a_question_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever keeps it going: here it is merely said to be too long."""
    monkeypatch.setattr(fleet_memory, "MOST_STEPS", 20)
    requests = _fleet_requests([SimulatedRequest("a", 0.0, 60, 15), SimulatedRequest("b", 0.0, 60, 40)])
    fleet = EngineFleet([FleetEngine(LIMITS, LATENCY)], requests)
    assert np.isfinite(fleet.ask(0, np.array([0]), 0.0).figures).all()
    with pytest.raises(StateError, match="engine 0: some request is never served to its end"):
        fleet.ask(1, np.array([0]), 0.0)


def test_what_an_engine_could_never_hold_is_refused() -> None:
    with pytest.raises(StateError, match="need"):
        EngineFleet(
            [FleetEngine(replace(LIMITS, total_blocks=4), LATENCY)],
            _fleet_requests([SimulatedRequest("a", 0.0, 60, 40)]),
        )
    caching = replace(LIMITS, prefix_caching=True)
    with pytest.raises(StateError, match="block_size = 16, 32"):
        EngineFleet(
            [FleetEngine(replace(caching, block_size=size), LATENCY) for size in (16, 32)],
            _fleet_requests([]),
        )


def test_an_engine_tells_what_it_has_cached_and_what_ifs_count_on_what_they_are_told() -> None:
    """Conversations: each turn begins with the one before it."""
    turns = [
        SimulatedRequest(str(i), 20.0 * i, 200 + 160 * i, 5, block_hashes=tuple(range(12 + 10 * i)))
        for i in range(3)
    ]
    limits = replace(LIMITS, prefix_caching=True)
    fleet = EngineFleet([FleetEngine(limits, LATENCY)] * 2, _fleet_requests(turns))
    both = np.array([0, 1])
    for number, turn in enumerate(turns):
        fleet.run_until(turn.arrival_s)
        cached = fleet.cached(number, both)
        assert cached.tolist() == [0, 16 * len(turns[number - 1].block_hashes) if number else 0]
        told = fleet.ask(number, both, turn.arrival_s, cached_tokens=cached).figures[:, TTFT]
        fleet.tell(number, 0, turn.arrival_s, int(cached[1]))
        fleet.send(number, 1, turn.arrival_s)
        fleet.run_until(turn.arrival_s + 19.0)
        assert told[1] == pytest.approx(fleet.fates[number, FATE_FIRST_TOKEN] - turn.arrival_s)
        assert (told[1] < told[0]) == (number > 0)
    assert fleet.fates[:, FATE_HITS].tolist() == [0.0, 12 * 16, 22 * 16]


def test_a_reused_record_knows_nothing_of_what_its_last_request_cached() -> None:
    """Nor does the next one's own text, or what it generated."""
    requests = [SimulatedRequest(f"{i}", 10.0 * i, 100, 60) for i in range(4)]
    fleet = EngineFleet(
        [FleetEngine(replace(LIMITS, prefix_caching=True), LATENCY)], _fleet_requests(requests), records=1
    )
    for number, request in enumerate(requests):
        fleet.send(number, 0, request.arrival_s)
        fleet.run_until(request.arrival_s + 9.0)
    assert fleet.fates[:, FATE_HITS].tolist() == [0.0] * 4
