"""Expected arrivals in what-ifs: if they come true, so does the prediction."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from known_latency import KnownLatency

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation.background import Background
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.loop import SCHEDULED, advance
from block.simulation.what_if import Newcomer, WhatIf
from block.types import Arrival, EngineLimits, EngineState, Prediction, SchedulingPolicy

KERNEL = KernelLatency((1.0, 512.0), (0.02, 0.06), per_context_token_s=2e-7)
MODEL = KnownLatency(KERNEL)


def _limits(asynchronous: bool, blocks: int) -> EngineLimits:
    return EngineLimits(16, blocks, 12, 256, 1024, async_scheduling=asynchronous)


def _workload(seed: int) -> list[SimulatedRequest]:
    dice = random.Random(seed)
    times = sorted(dice.uniform(0.0, 8.0) for _ in range(40))
    return [
        SimulatedRequest(str(i), t, dice.randint(1, 400), dice.randint(1, 200)) for i, t in enumerate(times)
    ]


def _ask(
    state: EngineState, requests: list[SimulatedRequest], index: int, background: Background | None
) -> Prediction:
    lengths = {request.id: request.output_tokens for request in requests}
    present = np.array([[lengths[r.id] for r in (*state.running, *state.waiting)]], np.int64)
    me = requests[index]
    newcomer = Arrival(me.id, me.arrival_s, me.prompt_tokens, me.output_tokens, me.output_tokens)
    return WhatIf(state, MODEL, present, (), background).ask(Newcomer.certain(newcomer))[0]


def _future(requests: list[SimulatedRequest], index: int, now_s: float) -> Background:
    later = requests[index + 1 :]
    return Background(
        np.array([request.arrival_s - now_s for request in later]),
        np.array([request.prompt_tokens for request in later], np.int64),
        np.array([request.output_tokens for request in later], np.int64),
    )


def _state_at_arrival(engine: EngineSimulation, index: int) -> EngineState:
    """The newest state before request ``index`` comes, with all that came before it in the queues."""
    memory, me = engine.memory, engine.requests[index]
    state = engine.state()
    while advance(memory.s, memory.f) == SCHEDULED or memory.f[layout.NOW] < me.arrival_s:
        if memory.f[layout.NOW] >= me.arrival_s:
            break
        state = engine.state()
    return state


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("blocks", [60, 400])
def test_a_foreseen_future_comes_true(asynchronous: bool, blocks: int) -> None:
    limits = _limits(asynchronous, blocks)
    asked = 0
    for seed in range(12):
        requests = _workload(seed)
        fates = EngineSimulation(limits, KERNEL, requests)
        fates.run()
        index = 15 + seed
        state = _state_at_arrival(EngineSimulation(limits, KERNEL, requests), index)
        shown = {request.id for request in (*state.running, *state.waiting)}
        unseen = [
            i for i in range(index) if str(i) not in shown and fates.outcomes()[i].finish_s > state.time_s
        ]
        if unseen:
            continue  # somebody came between this state and the newcomer: a commitment's business
        # Exact only while the question's time is that of the baseline: a step is under way.
        now_s = requests[index].arrival_s
        prediction = _ask(state, requests, index, _future(requests, index, now_s))
        fate = fates.outcomes()[index]
        assert prediction.ttft_s == pytest.approx(fate.first_token_s - now_s, abs=1e-9)
        assert prediction.e2e_s == pytest.approx(fate.finish_s - now_s, abs=1e-9)
        asked += 1
    assert asked >= 4


def test_questions_that_follow_each_other_share_a_baseline() -> None:
    requests = _workload(1)
    state = _state_at_arrival(EngineSimulation(_limits(True, 400), KERNEL, requests), 20)
    exact = _future(requests, 20, requests[20].arrival_s)
    coarse = replace(exact, grid_s=float(exact.arrival_s[0]) / 2)
    lengths = np.array([[r.max_tokens for r in (*state.running, *state.waiting)]], np.int64)
    what_if = WhatIf(state, MODEL, lengths, (), coarse)
    answers = []
    for share in (0.0, 0.1, 0.2):
        newcomer = Arrival("new", state.time_s + share * coarse.grid_s, 100, 50, 50)
        answers.append(what_if.ask(Newcomer.certain(newcomer))[0].e2e_s)
        alone = WhatIf(state, MODEL, lengths, (), exact).ask(Newcomer.certain(newcomer))[0].e2e_s
        assert answers[-1] == pytest.approx(alone, rel=0.1)
    assert what_if.baselines == 1
    assert len(set(answers)) > 1
    what_if.ask(Newcomer.certain(Arrival("new", state.time_s + 1.5 * coarse.grid_s, 100, 50, 50)))
    assert what_if.baselines == 2
    with pytest.raises(StateError, match="grid_s"):
        replace(exact, grid_s=2 * float(exact.arrival_s[0]))


def test_without_it_a_busy_engine_is_predicted_too_fast() -> None:
    requests = _workload(1)
    limits = _limits(True, 400)
    state = _state_at_arrival(EngineSimulation(limits, KERNEL, requests), 20)
    alone = _ask(state, requests, 20, None)
    accompanied = _ask(state, requests, 20, _future(requests, 20, state.time_s))
    assert accompanied.e2e_s > 1.02 * alone.e2e_s


def test_those_expected_are_not_waited_for_and_suffer_no_harm() -> None:
    limits = _limits(True, 400)
    idle = EngineState("idle", 0, 0.0, limits, free_blocks=limits.total_blocks)
    distant = Background(np.array([1e6]), np.array([100]), np.array([100]))
    me = Newcomer.certain(Arrival("me", 0.0, 50, 20, 20))
    with_distant, _ = WhatIf(idle, MODEL, background=distant).ask(me)
    alone, _ = WhatIf(idle, MODEL).ask(me)
    assert with_distant == alone


def test_they_come_after_the_question_however_old_the_state() -> None:
    limits = _limits(True, 400)
    idle = EngineState("idle", 0, 0.0, limits, free_blocks=limits.total_blocks)
    soon = Background(np.array([5.0]), np.array([100]), np.array([100]))
    what_if = WhatIf(idle, MODEL, background=soon)
    old, _ = what_if.ask(Newcomer.certain(Arrival("me", 1000.0, 50, 20, 20)))
    new, _ = WhatIf(idle, MODEL).ask(Newcomer.certain(Arrival("me", 0.0, 50, 20, 20)))
    assert old.e2e_s == pytest.approx(new.e2e_s, abs=1e-9)


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_none_of_them_goes_before_who_has_come(policy: SchedulingPolicy) -> None:
    """However long the step under way lasts, and whoever is more urgent."""
    limits = replace(_limits(False, 400), policy=policy)
    requests = [SimulatedRequest("first", 0.0, 256, 50, priority=3)]
    engine = EngineSimulation(limits, KernelLatency((1.0, 512.0), (2.0, 2.1)), requests)
    advance(engine.memory.s, engine.memory.f)
    many = Background(np.arange(40) / 20.0, np.full(40, 200, np.int64), np.full(40, 50, np.int64))
    me = Newcomer.certain(Arrival("me", 1.9, 50, 20, 20, priority=3))
    with_many, _ = WhatIf(engine.state(), MODEL, background=many).ask(me)
    alone, _ = WhatIf(engine.state(), MODEL).ask(me)
    assert with_many.ttft_s < alone.ttft_s + 0.1


def test_more_than_fits_is_cut_to_what_the_engine_takes() -> None:
    limits = _limits(False, 8)
    idle = EngineState("idle", 0, 0.0, limits, free_blocks=limits.total_blocks)
    huge = Background(np.array([0.001]), np.array([100_000]), np.array([100_000]))
    prediction, _ = WhatIf(idle, MODEL, background=huge).ask(Newcomer.certain(Arrival("me", 0.0, 50, 20, 20)))
    assert np.isfinite(prediction.e2e_s)


@pytest.mark.parametrize(
    ("times", "prompts", "outputs"),
    [
        ([0.0], [1, 2], [1]),
        ([-1.0], [1], [1]),
        ([2.0, 1.0], [1, 1], [1, 1]),
        ([0.0], [0], [1]),
        ([np.nan], [1], [1]),
    ],
)
def test_what_cannot_be_expected_is_refused(
    times: list[float], prompts: list[int], outputs: list[int]
) -> None:
    with pytest.raises(StateError, match="background"):
        Background(np.array(times), np.array(prompts, np.int64), np.array(outputs, np.int64))
