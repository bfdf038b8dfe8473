"""What-ifs: the newcomer's fate and the harm it does equal two full simulations."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.loop import SCHEDULED, advance
from block.simulation.what_if import WhatIf
from block.types import Arrival, BatchShape, EngineLimits, EngineState

LIMITS = EngineLimits(
    block_size=16,
    total_blocks=120,
    max_num_seqs=16,
    max_num_batched_tokens=128,
    max_model_len=1024,
    async_scheduling=True,
)


@dataclass(frozen=True)
class Model:
    kernel: KernelLatency
    version: str = "test"

    def seconds(self, shape: BatchShape) -> float:
        return self.kernel.seconds(shape)

    def covers(self, shape: BatchShape) -> bool:
        return True


def _requests(count: int) -> list[SimulatedRequest]:
    return [SimulatedRequest(f"r{i}", 0.0, 40 + 3 * i, 60 + 7 * i) for i in range(count)]


def _state_after(requests: list[SimulatedRequest], latency: KernelLatency, steps: int) -> EngineState:
    simulation = EngineSimulation(LIMITS, latency, requests)
    while steps:
        steps -= advance(simulation.memory.s, simulation.memory.f) == SCHEDULED
    return simulation.state()


def test_the_newcomer_and_the_harm_equal_full_simulations(latency: KernelLatency) -> None:
    requests = _requests(20)
    state = _state_after(requests, latency, 30)
    newcomer = Arrival("new", state.time_s + 0.001, 200, 50, 50)
    answer = WhatIf(state, Model(latency), {}).ask(newcomer)

    alone = EngineSimulation(LIMITS, latency, requests)
    alone.run()
    joined = EngineSimulation(
        LIMITS, latency, [*requests, SimulatedRequest("new", newcomer.arrival_s, 200, 50)]
    )
    joined.run()
    *others, fate = joined.outcomes()
    harm = [b.finish_s - a.finish_s for a, b in zip(alone.outcomes(), others, strict=True)]
    assert answer.ttft_s == pytest.approx(fate.first_token_s - newcomer.arrival_s, abs=1e-9)
    assert answer.e2e_s == pytest.approx(fate.finish_s - newcomer.arrival_s, abs=1e-9)
    assert answer.harm_sum_s == pytest.approx(sum(harm), abs=1e-8)
    assert answer.harm_max_s == pytest.approx(max(harm), abs=1e-9)
    assert answer.harm_sum_s > 0
    assert answer.confidence == 1.0


def test_committed_choices_delay_the_newcomer(latency: KernelLatency) -> None:
    state = _state_after(_requests(4), latency, 5)
    newcomer = Arrival("new", state.time_s, 100, 50, 50)
    committed = [Arrival(f"c{i}", state.time_s, 300, 50, 50) for i in range(5)]
    free = WhatIf(state, Model(latency), {}).ask(newcomer)
    crowded = WhatIf(state, Model(latency), {}, committed).ask(newcomer)
    assert crowded.ttft_s > free.ttft_s + 0.5


def test_asking_changes_nothing(latency: KernelLatency) -> None:
    state = _state_after(_requests(10), latency, 12)
    what_if = WhatIf(state, Model(latency), {})
    newcomer = Arrival("new", state.time_s, 100, 50, 50)
    assert what_if.ask(newcomer) == what_if.ask(newcomer)


def test_an_overdue_step_ends_now_at_the_earliest(latency: KernelLatency) -> None:
    state = _state_after(_requests(3), latency, 4)
    late = Arrival("new", state.time_s + 10.0, 16, 1, 1)
    answer = WhatIf(state, Model(latency), {}).ask(late)
    assert 0 < answer.ttft_s < 1
    assert answer.state_age_s == pytest.approx(10.0)


def test_a_request_that_could_never_run_is_refused(latency: KernelLatency) -> None:
    state = _state_after(_requests(2), latency, 2)
    with pytest.raises(StateError, match="prompt"):
        WhatIf(state, Model(latency), {}).ask(Arrival("new", state.time_s, 1024, 5, 5))
