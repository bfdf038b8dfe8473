"""Where runs about one state part: answers equal, to the last bit, those of runs from the state itself."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from known_latency import KnownLatency

from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation import what_if as what_if_module
from block.simulation.background import Background
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.head_start import head_starts, stage
from block.simulation.loop import SCHEDULED, STUCK, advance
from block.simulation.memory import Floats, Ints
from block.simulation.what_if import Newcomer, WhatIf
from block.types import Arrival, EngineLimits, EngineState, SchedulingPolicy

KERNEL = KernelLatency((1.0, 64.0, 256.0), (0.02, 0.022, 0.05), 4e-7, 6e-9, 1e-5)
MODEL = KnownLatency(KERNEL)
SCENARIOS = 3


@dataclass(frozen=True)
class Case:
    """An engine in the middle of its work, and what is expected to come."""

    state: EngineState
    lengths: Ints
    committed: tuple[Arrival, ...]
    background: Background
    newcomers: tuple[Newcomer, ...]

    def what_if(self) -> WhatIf:
        sequences = 1 + len(self.newcomers[0].siblings)
        return WhatIf(self.state, MODEL, self.lengths, self.committed, self.background, sequences)


def _case(seed: int, asynchronous: bool, policy: SchedulingPolicy, long_prefill: int) -> Case:
    dice = random.Random(seed)
    limits = EngineLimits(
        block_size=16,
        total_blocks=dice.choice([70, 120, 1000]),
        max_num_seqs=dice.choice([1, 4, 10]),
        max_num_batched_tokens=dice.choice([16, 64, 256]),
        max_model_len=1024,
        policy=policy,
        long_prefill_token_threshold=long_prefill,
        async_scheduling=asynchronous,
    )
    requests = [
        SimulatedRequest(
            f"r{i}", 0.0, dice.randint(1, 300), dice.randint(1, 120), priority=dice.randint(0, 2)
        )
        for i in range(dice.randint(2, 40))
    ]
    state = _state_after(EngineSimulation(limits, KERNEL, requests), dice.randint(1, 120))
    committed = tuple(
        Arrival(f"c{i}", state.time_s + i * 0.01, dice.randint(1, 200), dice.randint(1, 50), 50)
        for i in range(dice.randint(0, 2))
    )
    present = (*state.running, *state.waiting, *committed)
    lengths = [[dice.randint(1, 150) for _ in present] for _ in range(SCENARIOS)]
    return Case(
        state,
        np.array(lengths, np.int64).reshape(SCENARIOS, len(present)),
        committed,
        _background(dice),
        _newcomers(dice, state.time_s),
    )


def _state_after(engine: EngineSimulation, steps: int) -> EngineState:
    """After so many steps, or before the last if there are fewer."""
    memory = engine.memory
    state = engine.state()
    while steps and (done := advance(memory.s, memory.f)) > STUCK:
        steps -= done == SCHEDULED
        state = engine.state()
    return state


def _background(dice: random.Random) -> Background:
    times = sorted(dice.uniform(0.0, 6.0) for _ in range(dice.choice([0, 10, 30])))
    return Background(
        np.array(times),
        np.array([dice.randint(1, 200) for _ in times], np.int64),
        np.array([dice.randint(1, 80) for _ in times], np.int64),
    )


def _newcomers(dice: random.Random, now_s: float) -> tuple[Newcomer, ...]:
    """At once, soon, and long after."""
    more = dice.choice([0, 0, 1])
    newcomers = []
    for age_s, there_s in ((0.0, 0.0), (0.03, 0.2), (3.0, 0.5), (0.0, 20.0)):
        arrival = Arrival("new", now_s + age_s, dice.randint(1, 300), 40, 120, dice.randint(0, 2))
        lengths = tuple(dice.randint(1, 120) for _ in range(SCENARIOS))
        newcomers.append(Newcomer(arrival, lengths, there_s, there_s, (arrival,) * more))
    return tuple(newcomers)


def _from_the_state(
    template: Ints, times: Floats, stops: Ints, overdue_s: float, as_of_s: float
) -> tuple[Ints, Floats]:
    """No head start at all."""
    heads, head_times = np.tile(template, (len(stops), 1)), np.tile(times, (len(stops), 1))
    for row, row_times, lengths in zip(heads, head_times, stops, strict=True):
        stage(row, row_times, lengths, overdue_s, as_of_s)
    return heads, head_times


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("policy", "long_prefill"), [("fcfs", 0), ("fcfs", 32), ("priority", 0)])
def test_answers_are_those_of_runs_from_the_state(
    asynchronous: bool, policy: SchedulingPolicy, long_prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, behind_expected = [0], 0

    def counted(*arguments: object) -> tuple[Ints, Floats]:
        heads, head_times = head_starts(*arguments)
        ahead[0] += int((heads[:, layout.STEPS] > arguments[0][layout.STEPS]).sum())
        return heads, head_times

    for seed in range(60):
        case = _case(seed, asynchronous, policy, long_prefill)
        answers = []
        for way in (counted, _from_the_state):
            monkeypatch.setattr(what_if_module, "head_starts", way)
            what_if = case.what_if()
            answers.append(
                [what_if.ask(newcomer, harm=harm) for newcomer in case.newcomers for harm in (True, False)]
            )
        assert answers[0] == answers[1], f"seed {seed}"
        behind_expected += len(case.background) > 0
    assert behind_expected > 10
    if policy == "priority" or long_prefill:
        assert ahead[0] == 0  # who waits has an effect, or overtakes
    else:
        assert ahead[0] > 100
