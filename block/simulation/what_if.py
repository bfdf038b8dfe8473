"""What would happen if this engine got one more request?

A state is laid out once; each question copies it twice and runs them to the end, with
the newcomer behind all other arrivals and without it. The difference is the harm to the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from block.errors import StateError
from block.latency.base import StepLatencyModel
from block.simulation import layout
from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.leap import run
from block.simulation.memory import Floats, Ints
from block.simulation.resume import resume
from block.types import Arrival, EngineLimits, EngineState, Prediction

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
        self._memory = resume(state, model.kernel, output_tokens, committed, spare=1).memory

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
        record = (
            newcomer.prompt_tokens,
            max(newcomer.max_tokens, newcomer.output_tokens),
            min(newcomer.output_tokens, room),
            newcomer.priority,
            self._memory.count,
        )
        arrival_s = max(newcomer.arrival_s - origin_s, 0.0)
        answer = _ask(self._memory.s, self._memory.f, np.array(record), arrival_s)
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


def warm_up(model: StepLatencyModel) -> None:
    """Compile, or load from the cache, all that an answer needs: seconds when cold, else half of one."""
    limits = EngineLimits(
        block_size=16, total_blocks=8, max_num_seqs=1, max_num_batched_tokens=16, max_model_len=64
    )
    state = EngineState("warm-up", 0, 0.0, limits, free_blocks=limits.total_blocks)
    WhatIf(state, model, {}).ask(Arrival("warm-up", 0.0, 1, 1, 1))


@compiled
def _end_overdue_batches(s: Ints, f: Floats, now_s: float) -> None:
    """A batch whose predicted end has passed without word from the engine ends any moment now."""
    for slot in range(s[layout.BATCHES]):
        f[layout.BATCH_END + slot] = max(f[layout.BATCH_END + slot], now_s)
        f[layout.GPU_FREE] = max(f[layout.GPU_FREE], now_s)


@compiled
def _join(s: Ints, f: Floats, newcomer: Ints, arrival_s: float) -> int:
    """Put the newcomer into the spare record, behind all other arrivals; returns its times' place."""
    q = s[layout.RECORDS] + (s[layout.RUNNING_QUEUE] - s[layout.RECORDS]) // layout.RECORD * layout.RECORD
    q -= layout.RECORD
    for field in range(newcomer.size):
        s[q + field] = newcomer[field]
    f[s[q + layout.TIMES] + layout.ARRIVAL] = arrival_s
    s[s[layout.LAST_ARRIVAL]] = q
    s[layout.LAST_ARRIVAL] += 1
    return s[q + layout.TIMES]


@compiled_allocating
def _ask(template: Ints, times: Floats, newcomer: Ints, arrival_s: float) -> Floats:
    """``newcomer``: its record's first fields. Returns the entries named above."""
    alone, alone_f = template.copy(), times.copy()
    _end_overdue_batches(alone, alone_f, arrival_s)
    run(alone, alone_f)
    s, f = template.copy(), times.copy()
    fate = _join(s, f, newcomer, arrival_s)
    _end_overdue_batches(s, f, arrival_s)
    run(s, f)
    answer = np.zeros(7)
    answer[_TTFT] = f[fate + layout.FIRST_TOKEN] - arrival_s
    answer[_E2E] = f[fate + layout.FINISH] - arrival_s
    for at in range(s[layout.REQUEST_TIMES] + layout.FINISH, fate, layout.TIME_FIELDS):
        harm = f[at] - alone_f[at]
        answer[_HARM_SUM] += harm
        answer[_HARM_MAX] = max(answer[_HARM_MAX], harm)
    answer[_PREEMPTIONS] = s[layout.PREEMPTIONS_DONE] - alone[layout.PREEMPTIONS_DONE]
    answer[_STEPS] = s[layout.STEPS]
    answer[_OUTSIDE] = s[layout.OUTSIDE_STEPS]
    return answer
