"""What-ifs: the newcomer's fate and the harm it does equal two full simulations."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known_latency import KnownLatency

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation import what_if as what_if_module
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.loop import SCHEDULED, advance
from block.simulation.what_if import Newcomer, WhatIf
from block.types import Arrival, EngineLimits, EngineState, RequestState, RequestStatus

ROOT = Path(__file__).parents[3]
LIMITS = EngineLimits(
    block_size=16,
    total_blocks=120,
    max_num_seqs=16,
    max_num_batched_tokens=128,
    max_model_len=1024,
    async_scheduling=True,
)


def _requests(count: int) -> list[SimulatedRequest]:
    return [SimulatedRequest(f"r{i}", 0.0, 40 + 3 * i, 60 + 7 * i) for i in range(count)]


def _state_after(requests: list[SimulatedRequest], latency: KernelLatency, steps: int) -> EngineState:
    simulation = EngineSimulation(LIMITS, latency, requests)
    while steps:
        steps -= advance(simulation.memory.s, simulation.memory.f) == SCHEDULED
    return simulation.state()


def _what_if(
    state: EngineState,
    latency: KernelLatency,
    committed: tuple[Arrival, ...] = (),
    lengths: list[list[int]] | None = None,
) -> WhatIf:
    """Without ``lengths``: one scenario in which all responses go on to their limits."""
    present = (*state.running, *state.waiting, *committed)
    stops = np.array(lengths or [[request.max_tokens for request in present]], np.int64)
    return WhatIf(state, KnownLatency(latency), stops.reshape(len(stops), len(present)), committed)


def _newcomer(arrival_s: float, prompt: int = 100, *output: int) -> Newcomer:
    lengths = output or (50,)
    return Newcomer(Arrival("new", arrival_s, prompt, lengths[0], 90), lengths)


def test_the_newcomer_and_the_harm_equal_full_simulations(latency: KernelLatency) -> None:
    requests = _requests(20)
    state = _state_after(requests, latency, 30)
    arrival_s = state.time_s + 0.001
    answer, _ = _what_if(state, latency).ask(_newcomer(arrival_s, 200))

    alone = EngineSimulation(LIMITS, latency, requests)
    alone.run()
    joined = EngineSimulation(LIMITS, latency, [*requests, SimulatedRequest("new", arrival_s, 200, 50, 90)])
    joined.run()
    *others, fate = joined.outcomes()
    harm = [b.finish_s - a.finish_s for a, b in zip(alone.outcomes(), others, strict=True)]
    assert answer.ttft_s == pytest.approx(fate.first_token_s - arrival_s, abs=1e-9)
    assert answer.e2e_s == pytest.approx(fate.finish_s - arrival_s, abs=1e-9)
    assert answer.harm_sum_s == pytest.approx(sum(harm), abs=1e-8)
    assert answer.harm_max_s == pytest.approx(max(harm), abs=1e-9)
    assert answer.harm_sum_s > 0
    assert answer.confidence == 1.0


def test_a_newcomer_on_its_way_misses_the_steps_that_begin_meanwhile(latency: KernelLatency) -> None:
    requests = _requests(12)
    state = _state_after(requests, latency, 30)
    asked_s = state.time_s + 0.001
    newcomer = replace(_newcomer(asked_s, 60), outside_s=0.07, there_s=0.05)
    answer, _ = _what_if(state, latency).ask(newcomer)

    joined = EngineSimulation(
        LIMITS, latency, [*requests, SimulatedRequest("new", asked_s + 0.05, 60, 50, 90)]
    )
    joined.run()
    fate = joined.outcomes()[-1]
    assert answer.ttft_s == pytest.approx(fate.first_token_s - asked_s + 0.02, abs=1e-9)
    assert answer.e2e_s == pytest.approx(fate.finish_s - asked_s + 0.02, abs=1e-9)
    assert answer.state_age_s == pytest.approx(0.001)


def test_a_newcomer_of_several_sequences_equals_as_many_requests(latency: KernelLatency) -> None:
    requests = _requests(20)
    state = _state_after(requests, latency, 30)
    arrival_s = state.time_s + 0.001
    first = Arrival("new", arrival_s, 200, 50, 90)
    newcomer = Newcomer(first, (50,), siblings=(first, first))
    stops = np.array([[request.max_tokens for request in (*state.running, *state.waiting)]])
    answer, _ = WhatIf(state, KnownLatency(latency), stops, sequences=3).ask(newcomer)

    alone = EngineSimulation(LIMITS, latency, requests)
    alone.run()
    siblings = [SimulatedRequest(f"new{number}", arrival_s, 200, 50, 90) for number in range(3)]
    joined = EngineSimulation(LIMITS, latency, [*requests, *siblings])
    joined.run()
    others, fates = joined.outcomes()[:-3], joined.outcomes()[-3:]
    harm = [b.finish_s - a.finish_s for a, b in zip(alone.outcomes(), others, strict=True)]
    assert answer.ttft_s == pytest.approx(min(fate.first_token_s for fate in fates) - arrival_s, abs=1e-9)
    assert answer.e2e_s == pytest.approx(max(fate.finish_s for fate in fates) - arrival_s, abs=1e-9)
    assert answer.tpot_s == pytest.approx(
        np.mean([(fate.finish_s - fate.first_token_s) / 49 for fate in fates]), abs=1e-9
    )
    assert answer.harm_sum_s == pytest.approx(sum(harm), abs=1e-8)


def test_sequences_are_as_many_as_the_state_was_laid_out_for(latency: KernelLatency) -> None:
    first = Arrival("new", 1.0, 20, 5, 9)
    with pytest.raises(StateError, match="request new: 2 sequences, the state is laid out for 1"):
        _what_if(_state_after(_requests(2), latency, 3), latency).ask(
            Newcomer(first, (5,), siblings=(first,))
        )


def test_without_harm_the_times_are_the_same(latency: KernelLatency) -> None:
    what_if = _what_if(_state_after(_requests(12), latency, 14), latency)
    whole, spread = what_if.ask(_newcomer(1.0, 200))
    assert what_if.ask(_newcomer(1.0, 200), harm=False) == (
        replace(whole, harm_sum_s=0.0, harm_max_s=0.0, extra_preemptions=0.0),
        spread,
    )
    assert whole.harm_sum_s > 0


@pytest.mark.parametrize("prompt", [320, 321, 400])
def test_a_prefix_said_to_be_cached_is_not_computed(prompt: int, latency: KernelLatency) -> None:
    """The judge is the simulation that follows each block, as vLLM does: 320 tokens are known to it, and
    of a prompt that has no others, the last block is computed all the same.
    """
    limits = replace(LIMITS, prefix_caching=True, total_blocks=400)
    first = SimulatedRequest("first", 0.0, 330, 2, block_hashes=tuple(range(20)))
    requests = [first, *(SimulatedRequest(f"r{i}", 0.0, 40, 60) for i in range(8))]
    before = EngineSimulation(limits, latency, requests)
    steps = 12
    while steps:
        steps -= advance(before.memory.s, before.memory.f) == SCHEDULED
    state = before.state()
    assert "first" not in {request.id for request in state.running}
    arrival_s = state.time_s + 0.001
    again = SimulatedRequest("new", arrival_s, prompt, 50, 90, block_hashes=tuple(range(prompt // 16)))
    truth = EngineSimulation(limits, latency, [*requests, again])
    truth.run()
    fate = truth.outcomes()[-1]

    newcomer = _newcomer(arrival_s, prompt)
    told = Newcomer(replace(newcomer.arrival, cached_tokens=320), newcomer.output_tokens)
    what_if = _what_if(state, latency, lengths=[[request.max_tokens for request in state.running]])
    answer, _ = what_if.ask(told)
    assert answer.ttft_s == pytest.approx(fate.first_token_s - arrival_s, abs=1e-9)
    assert answer.e2e_s == pytest.approx(fate.finish_s - arrival_s, abs=1e-9)
    untold, _ = what_if.ask(newcomer)
    assert untold.ttft_s > answer.ttft_s
    committed = (replace(told.arrival, id="c", output_tokens=1, max_tokens=1),)
    unknown = (replace(committed[0], cached_tokens=0),)
    behind, _ = _what_if(state, latency, committed).ask(newcomer)
    behind_unknown, _ = _what_if(state, latency, unknown).ask(newcomer)
    assert behind.ttft_s < behind_unknown.ttft_s


def test_an_engine_without_a_prefix_cache_computes_all(latency: KernelLatency) -> None:
    what_if = _what_if(_state_after(_requests(4), latency, 5), latency)
    newcomer = _newcomer(1.0, 320)
    told = Newcomer(replace(newcomer.arrival, cached_tokens=320), newcomer.output_tokens)
    assert what_if.ask(told) == what_if.ask(newcomer)


def test_scenarios_are_averaged_and_their_spread_is_told(latency: KernelLatency) -> None:
    state = _state_after(_requests(12), latency, 14)
    arrival_s = state.time_s
    count = len(state.running) + len(state.waiting)
    lengths = [[60] * count, [140] * count, [30] * count]
    outputs = (20, 80, 40)
    single = [
        _what_if(state, latency, lengths=[stops]).ask(_newcomer(arrival_s, 100, output))[0]
        for stops, output in zip(lengths, outputs, strict=True)
    ]
    mean, spread = _what_if(state, latency, lengths=lengths).ask(_newcomer(arrival_s, 100, *outputs))
    for name in ("ttft_s", "e2e_s", "tpot_s", "harm_sum_s"):
        assert getattr(mean, name) == pytest.approx(np.mean([getattr(each, name) for each in single]))
    assert spread.scenarios == 3
    assert spread.e2e_max_s == pytest.approx(max(each.e2e_s for each in single))
    assert spread.e2e_std_s == pytest.approx(np.std([each.e2e_s for each in single]))
    assert spread.e2e_std_s > 0
    assert spread.e2e_s == pytest.approx([each.e2e_s for each in single])
    assert spread.ttft_s == pytest.approx([each.ttft_s for each in single])


def test_committed_choices_delay_the_newcomer(latency: KernelLatency) -> None:
    state = _state_after(_requests(4), latency, 5)
    committed = tuple(Arrival(f"c{i}", state.time_s, 300, 50, 50) for i in range(5))
    free, _ = _what_if(state, latency).ask(_newcomer(state.time_s))
    crowded, _ = _what_if(state, latency, committed).ask(_newcomer(state.time_s))
    assert crowded.ttft_s > free.ttft_s + 0.5


def test_asking_changes_nothing(latency: KernelLatency) -> None:
    state = _state_after(_requests(10), latency, 12)
    what_if = _what_if(state, latency)
    first = what_if.ask(_newcomer(state.time_s))
    what_if.ask(_newcomer(state.time_s + 5.0, 300))
    assert what_if.ask(_newcomer(state.time_s)) == first


def test_an_overdue_step_ends_now_at_the_earliest(latency: KernelLatency) -> None:
    state = _state_after(_requests(3), latency, 4)
    answer, _ = _what_if(state, latency).ask(_newcomer(state.time_s + 10.0, 16, 1))
    assert 0 < answer.ttft_s < 1
    assert answer.state_age_s == pytest.approx(10.0)
    assert 0 <= answer.harm_max_s < 1


@pytest.mark.parametrize(("prompt", "outputs"), [(1024, (5,)), (0, (5,)), (5, (0,)), (5, (1, 2))])
def test_a_request_that_could_never_run_is_refused(prompt, outputs, latency: KernelLatency) -> None:
    state = _state_after(_requests(2), latency, 2)
    with pytest.raises(StateError, match="new"):
        _what_if(state, latency).ask(_newcomer(state.time_s, prompt, *outputs))


SMALL = replace(LIMITS, total_blocks=8, max_num_seqs=4, max_num_batched_tokens=64, max_model_len=4096)
LONE = RequestState("lone", RequestStatus.RUNNING, 0.0, 100, 1000, computed_tokens=100, generated_tokens=1)


@pytest.mark.parametrize("reserve", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
def test_a_response_goes_no_further_than_all_blocks_hold(reserve: bool, ahead: bool, latency) -> None:
    """Where it did, vLLM would preempt it and start it again for ever."""
    limits = replace(SMALL, reserve_full_prompt=reserve, async_scheduling=ahead)
    state = EngineState("e", 5, 1.0, limits, running=(LONE,), free_blocks=1)
    newcomer = Newcomer.certain(Arrival("new", 1.0, 10, 5, 5))
    answer, _ = WhatIf(state, KnownLatency(latency)).ask(newcomer)
    fitting = replace(state, running=(replace(LONE, max_tokens=29),))
    assert answer == WhatIf(fitting, KnownLatency(latency)).ask(newcomer)[0]
    assert np.isfinite([answer.e2e_s, answer.harm_sum_s]).all()


def test_whoever_can_never_be_served_is_named(latency: KernelLatency) -> None:
    state = EngineState("e", 5, 1.0, SMALL, running=(LONE,), free_blocks=1)
    beyond = replace(LONE, id="beyond", status=RequestStatus.WAITING, computed_tokens=0, prompt_tokens=129)
    with pytest.raises(StateError, match=r"request beyond: .* 129 tokens are the most"):
        WhatIf(replace(state, waiting=(beyond,)), KnownLatency(latency))
    with pytest.raises(StateError, match="request c: prompt_tokens = 129: can never be served"):
        WhatIf(state, KnownLatency(latency), committed=(Arrival("c", 1.0, 129, 5, 5),))
    with pytest.raises(StateError, match="request c: output_tokens = 0"):
        WhatIf(state, KnownLatency(latency), committed=(Arrival("c", 1.0, 12, 0, 5),))


def test_a_run_without_an_end_is_given_up(latency: KernelLatency, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever keeps it going: here it is merely said to be too long."""
    monkeypatch.setattr(what_if_module, "MOST_STEPS", 40)
    state = _state_after(_requests(6), latency, 8)
    with pytest.raises(StateError, match="request r0: is never served to its end"):
        _what_if(state, latency).ask(_newcomer(state.time_s))


def test_lengths_for_other_requests_than_the_states_are_refused(latency: KernelLatency) -> None:
    state = _state_after(_requests(2), latency, 2)
    with pytest.raises(StateError, match="output_tokens"):
        WhatIf(state, KnownLatency(latency), np.ones((1, 7), np.int64))


COUNT_COMPILED = """
import numpy as np
from block.latency.table import TableLatency
from block.simulation import expectation, head_start, placing, what_if, what_if_runs
from block.types import Arrival
from exp.bench_state import NEWCOMER, BenchState
from exp.bench_what_if import LATENCY

def compiled():
    made = {**vars(placing), **vars(what_if), **vars(what_if_runs), **vars(head_start), **vars(expectation)}
    return {name: len(f.signatures) for name, f in made.items() if hasattr(f, "signatures")}

model = TableLatency.load(LATENCY)
what_if.warm_up(model)
before = compiled()
lengths = np.asfortranarray(np.full((4, 21), 300))
asked = what_if.WhatIf(BenchState(10, 10, 30).build(), model, lengths, [Arrival("c", 0.0, 9, 9, 9)])
asked.ask(what_if.Newcomer(NEWCOMER, (5, 50, 100, 300)))
assert compiled() == before, (before, compiled())
print(before["ask_about"], before["place"], len(before))
"""


def test_after_warming_up_nothing_is_left_to_compile() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT_COMPILED], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["1", "1"]
