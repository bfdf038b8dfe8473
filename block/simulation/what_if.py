"""What would happen if this engine got one more request?

The arrays of a state are laid out once; each question copies them twice and runs them to the end, with
the newcomer behind all other arrivals and without it. The difference is the harm to the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from block.errors import StateError
from block.latency.base import StepLatencyModel
from block.simulation import arrays as rows
from block.simulation.arrays import Arrays, Floats
from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.loop import run
from block.simulation.resume import resume
from block.types import Arrival, EngineState, Prediction

# Entries of the compiled answer.
_TTFT, _E2E, _HARM_SUM, _HARM_MAX, _PREEMPTIONS, _STEPS, _OUTSIDE = range(7)


class WhatIf:
    """Answers questions about one state of one engine."""

    def __init__(
        self,
        state: EngineState,
        model: StepLatencyModel,
        output_tokens: Mapping[str, int],
        committed: Sequence[Arrival] = (),
    ) -> None:
        """``committed`` are choices the engine has not shown yet; see ``resume`` for ``output_tokens``."""
        self._state = state
        self._model = model
        self._arrays = resume(state, model.kernel, output_tokens, committed, spare=1).arrays

    def ask(self, newcomer: Arrival) -> Prediction:
        """Simulate with ``newcomer``; durations count from its arrival.

        Raises StateError when the engine could never run it.
        """
        limits, origin_s = self._state.limits, self._state.time_s
        room = limits.max_model_len - newcomer.prompt_tokens
        if newcomer.prompt_tokens < 1 or newcomer.output_tokens < 1 or room < 1:
            raise StateError(
                f"request {newcomer.id}: prompt_tokens = {newcomer.prompt_tokens} and output_tokens = "
                f"{newcomer.output_tokens}: need at least 1 each and a prompt below {limits.max_model_len}"
            )
        answer = _ask(
            self._arrays,
            newcomer.prompt_tokens,
            min(newcomer.output_tokens, room),
            max(newcomer.max_tokens, newcomer.output_tokens),
            newcomer.priority,
            max(newcomer.arrival_s - origin_s, 0.0),
        )
        if np.isnan(answer[_E2E]):
            raise StateError(
                f"request {newcomer.id}: its {newcomer.prompt_tokens} prompt tokens can never be scheduled "
                f"on an engine of {limits.total_blocks} blocks of {limits.block_size}"
            )
        return self._prediction(newcomer, answer)

    def _prediction(self, newcomer: Arrival, answer: Floats) -> Prediction:
        after_first = newcomer.output_tokens - 1
        return Prediction(
            ttft_s=float(answer[_TTFT]),
            e2e_s=float(answer[_E2E]),
            tpot_s=float((answer[_E2E] - answer[_TTFT]) / after_first) if after_first else 0.0,
            harm_sum_s=float(answer[_HARM_SUM]),
            harm_max_s=float(answer[_HARM_MAX]),
            extra_preemptions=int(answer[_PREEMPTIONS]),
            state_age_s=max(newcomer.arrival_s - self._state.time_s, 0.0),
            model_version=self._model.version,
            confidence=1.0 - float(answer[_OUTSIDE] / max(answer[_STEPS], 1)),
        )


@compiled_allocating
def _copied(a: Arrays, arrivals: rows.Ints) -> Arrays:
    """A copy that can be run; what a run never changes is shared. Blocks are only counted."""
    return Arrays(
        a.limits,
        a.counters.copy(),
        a.clock.copy(),
        a.requests.copy(),
        a.times.copy(),
        arrivals,
        a.running.copy(),
        a.waiting.copy(),
        a.preempted.copy(),
        a.batch_facts.copy(),
        a.batch_starts.copy(),
        a.batch_ends.copy(),
        a.batch_requests.copy(),
        a.batch_tokens.copy(),
        a.batch_emits.copy(),
        a.knots,
        a.seconds,
        a.slopes,
        a.hashes,
        a.tables,
        a.block_references,
        a.block_hash,
        a.free_next,
        a.free_previous,
        a.hash_first,
        a.hash_last,
        a.same_next,
        a.same_previous,
    )


@compiled
def _end_overdue_batches(a: Arrays, now_s: float) -> None:
    """A batch whose predicted end has passed without word from the engine ends any moment now."""
    for slot in range(a.counters[rows.BATCHES]):
        a.batch_ends[slot] = max(a.batch_ends[slot], now_s)
    a.clock[rows.GPU_FREE] = max(a.clock[rows.GPU_FREE], now_s * (a.counters[rows.BATCHES] > 0))


@compiled_allocating
def _ask(
    template: Arrays, prompt: int, stop_tokens: int, max_tokens: int, priority: int, arrival_s: float
) -> Floats:
    newcomer = template.requests.shape[1] - 1
    without = _copied(template, template.arrivals)
    _end_overdue_batches(without, arrival_s)
    run(without)
    others = template.arrivals.size
    arrivals = np.empty(others + 1, np.int64)
    arrivals[:others] = template.arrivals
    arrivals[others] = newcomer
    a = _copied(template, arrivals)
    a.requests[rows.PROMPT, newcomer] = prompt
    a.requests[rows.STOP_TOKENS, newcomer] = stop_tokens
    a.requests[rows.MAX_TOKENS, newcomer] = max_tokens
    a.requests[rows.PRIORITY, newcomer] = priority
    a.requests[rows.RANK, newcomer] = newcomer
    a.requests[rows.STATUS, newcomer] = rows.FUTURE
    a.times[rows.ARRIVAL, newcomer] = arrival_s
    _end_overdue_batches(a, arrival_s)
    run(a)
    answer = np.zeros(7)
    answer[_TTFT] = a.times[rows.FIRST_TOKEN, newcomer] - arrival_s
    answer[_E2E] = a.times[rows.FINISH, newcomer] - arrival_s
    for r in range(newcomer):
        harm = a.times[rows.FINISH, r] - without.times[rows.FINISH, r]
        answer[_HARM_SUM] += harm
        answer[_HARM_MAX] = max(answer[_HARM_MAX], harm)
    answer[_PREEMPTIONS] = a.counters[rows.TOTAL_PREEMPTIONS] - without.counters[rows.TOTAL_PREEMPTIONS]
    answer[_STEPS] = a.counters[rows.STEPS]
    answer[_OUTSIDE] = a.counters[rows.OUTSIDE_STEPS]
    return answer
