"""What would happen if this engine got one more request?

A state is laid out once. For each scenario of response lengths it is run as far as no newcomer could matter
yet (see ``head_start``). From there one run without the newcomer is the baseline, shared by all questions;
each question runs on to the end with the newcomer behind all other arrivals. The difference is the harm to
the others. Requests that are only expected (see ``background``) come behind the newcomer in both, and a run
ends without waiting for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from block.errors import StateError
from block.latency.base import StepLatencyModel
from block.simulation import layout
from block.simulation.background import Background
from block.simulation.columns import FIELDS, MAX_TOKENS, EngineColumns
from block.simulation.compiled import spare_linear_algebra
from block.simulation.engine import SimulatedRequest, check_request
from block.simulation.expectation import arrival_rate, expected_as_of_s, expected_count, mixed_lengths
from block.simulation.head_start import head_starts
from block.simulation.memory import Floats, Ints
from block.simulation.resume import check_arrival, likely_hits, resume
from block.simulation.soundness import longest_if_sound
from block.simulation.what_if_runs import (
    E2E,
    E2E_MAX,
    E2E_STD,
    HARM_MAX,
    HARM_SUM,
    MOST_STEPS,
    OUTSIDE,
    PREEMPTIONS,
    STEPS,
    TPOT,
    TTFT,
    TTFT_MAX,
    TTFT_STD,
    About,
    ask_about,
    overdue,
    run_alone,
    summary,
)
from block.types import Arrival, EngineLimits, EngineState, Prediction, PredictionSpread

_NO_BASELINE = (np.empty((0, 0)), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Newcomer:
    """The request of a what-if."""

    arrival: Arrival
    """Its time is the question's."""
    output_tokens: tuple[int, ...]
    """Response length in each scenario."""
    outside_s: float = 0.0
    """Spent outside of the engine, there and back: added to its times."""
    there_s: float = 0.0
    """Of that, what passes until it is in the engine's queue."""
    siblings: tuple[Arrival, ...] = ()
    """Other sequences of the same client request, which come right behind, with the same response lengths:
    TTFT is that of the first to begin, E2E that of the last to end, TPOT their mean."""

    @classmethod
    def certain(cls, arrival: Arrival) -> Newcomer:
        """One scenario, with the length that the arrival states."""
        return cls(arrival, (arrival.output_tokens,))


class WhatIf:
    """Answers questions about one state of one engine."""

    def __init__(
        self,
        state: EngineState | EngineColumns,
        model: StepLatencyModel,
        output_tokens: Ints | None = None,
        committed: Sequence[Arrival] = (),
        background: Background | None = None,
        sequences: int = 1,
    ) -> None:
        """``output_tokens``: (scenarios, requests) response lengths, in the order of ``state.running``,
        ``state.waiting`` and ``committed``, the choices that the engine has not shown yet. None is one
        scenario in which every response goes on to its limit. ``background``: what else is expected to
        come; None is nothing. ``sequences``: of each newcomer.
        """
        columns = state if isinstance(state, EngineColumns) else EngineColumns.of(state)
        if output_tokens is None:
            coming = np.array([arrival.max_tokens for arrival in committed], np.int64)
            output_tokens = np.concatenate([columns.numbers[MAX_TOKENS], coming])[None]
        self._state = columns
        self._model = model
        self.scenarios = len(output_tokens)
        background = background or Background.none()
        self._background = background
        self._others = len(columns.ids) + len(committed)
        self.sequences = sequences
        spare = sequences + len(background)
        resumed = resume(columns, model.kernel, {}, committed, spare)
        self._memory, self._ids, self._longest = resumed.memory, resumed.ids, resumed.longest
        self._memory.s[layout.MOST_STEPS] = MOST_STEPS
        background.announce(self._memory, columns.limits)
        self._stops = self._stop_tokens(output_tokens)
        self._about: About | None = None
        self._baseline: tuple[Floats, Ints] | None = None
        """Of what ``_about`` is."""
        self.baselines = 0
        """How often the others were simulated alone."""

    def ask(self, newcomer: Newcomer, *, harm: bool = True) -> tuple[Prediction, PredictionSpread]:
        """Simulate with ``newcomer`` in every scenario; durations count from its arrival.

        Returns the means over the scenarios, and their spread; without ``harm``, which takes the baseline,
        nothing of the others. Raises StateError when the engine could never run the newcomer.
        """
        arrival = newcomer.arrival
        records = self._records(newcomer)
        asked_s = max(arrival.arrival_s - self._state.time_s, 0.0)
        about = self._about_at(asked_s)
        finishes, preemptions = self._baseline_of(about) if harm else _NO_BASELINE
        arrival_s = asked_s + newcomer.there_s
        answers, culprit = ask_about(about, records, arrival_s, finishes, preemptions)
        if culprit >= 0:
            raise self._endless(culprit, arrival.id)
        figures = summary(answers, newcomer.outside_s).tolist()
        if not all(map(math.isfinite, figures)):
            raise StateError(f"request {arrival.id}: step times by {self._model.version} are not finite")
        return self._prediction(newcomer, figures), _spread(answers, figures)

    def _records(self, newcomer: Newcomer) -> Ints:
        """(scenarios, sequences, 6): the first fields of the newcomer's records."""
        if len(newcomer.output_tokens) != self.scenarios:
            raise StateError(f"request {newcomer.arrival.id}: need one output length for each scenario")
        sequences = (newcomer.arrival, *newcomer.siblings)
        if len(sequences) != self.sequences:
            raise StateError(
                f"request {newcomer.arrival.id}: {len(sequences)} sequences, the state is laid out for "
                f"{self.sequences}"
            )
        lengths = newcomer.output_tokens
        if self.sequences == 1:  # as nearly always
            return np.array(self._heads(newcomer.arrival, lengths, 0))[:, None]
        heads = [self._heads(arrival, lengths, number) for number, arrival in enumerate(sequences)]
        return np.array(heads).transpose(1, 0, 2).copy()

    def _heads(self, arrival: Arrival, output_tokens: tuple[int, ...], number: int) -> list[tuple[int, ...]]:
        """Of one sequence in each scenario."""
        limits = self._state.limits
        most = max(arrival.max_tokens, *output_tokens)
        check_arrival(arrival, self._longest)
        for tokens in {min(output_tokens), max(output_tokens)}:
            check_request(SimulatedRequest(arrival.id, 0.0, arrival.prompt_tokens, tokens, most), limits)
        room, rank = self._longest - arrival.prompt_tokens, self._others + number
        hits = likely_hits(arrival, limits)
        return [
            (arrival.prompt_tokens, most, min(tokens, room), arrival.priority, rank, hits)
            for tokens in output_tokens
        ]

    def _stop_tokens(self, output_tokens: Ints) -> Ints:
        """As the engine would: never beyond what a request or the model allows, never in the past."""
        requests = self._memory.requests[: self._others]
        if output_tokens.shape[1] != len(requests):
            raise StateError(f"output_tokens: {output_tokens.shape[1]} lengths for {len(requests)} requests")
        room = self._longest - requests[:, layout.PROMPT]
        most = np.minimum(requests[:, layout.MAX_TOKENS], room)
        stops = np.maximum(np.minimum(output_tokens, most), requests[:, layout.GENERATED] + 1)
        # Arrays in another order would have the compiled functions compiled anew.
        return np.ascontiguousarray(stops)

    def _about_at(self, asked_s: float) -> About:
        """The same for questions at about the same time."""
        # That nobody has come until a question is known, so what is expected moves with its time.
        as_of_s = self._background.as_of_s(asked_s) if len(self._background) else 0.0
        s, f = self._memory.s, self._memory.f
        overdue_s = overdue(s, f, asked_s)
        known = self._about
        if known is None or (known.overdue_s, known.as_of_s) != (overdue_s, as_of_s):
            heads, head_times = head_starts(s, f, self._stops, overdue_s, as_of_s)
            known = About(s, f, self._stops, overdue_s, as_of_s, heads, head_times)
            self._about, self._baseline = known, None
        return known

    def _baseline_of(self, about: About) -> tuple[Floats, Ints]:
        """Finish times and preemptions without a newcomer."""
        if self._baseline is None:
            finishes, preemptions, culprit = run_alone(about.heads, about.head_times, self._others)
            if culprit >= 0:
                raise self._endless(culprit)
            self._baseline = finishes, preemptions
            self.baselines += 1
        return self._baseline

    def _endless(self, row: int, newcomer: str = "") -> StateError:
        limits, known = self._state.limits, (*self._ids, *[newcomer] * self.sequences)
        request_id = known[row] if row < len(known) else "that is expected"
        return StateError(
            f"request {request_id}: is never served to its end: an engine of {limits.total_blocks} blocks of "
            f"{limits.block_size} with {self._state.free_blocks} free gets nowhere with it"
        )

    def _prediction(self, newcomer: Newcomer, figures: list[float]) -> Prediction:
        return Prediction(
            ttft_s=figures[TTFT],
            e2e_s=figures[E2E],
            tpot_s=figures[TPOT],
            harm_sum_s=figures[HARM_SUM],
            harm_max_s=figures[HARM_MAX],
            extra_preemptions=figures[PREEMPTIONS],
            state_age_s=max(newcomer.arrival.arrival_s - self._state.time_s, 0.0),
            model_version=self._model.version,
            confidence=1.0 - figures[OUTSIDE] / max(figures[STEPS], 1.0),
        )


def warm_up(model: StepLatencyModel) -> None:
    """Compile, or load from the cache, all that an answer needs: seconds when cold, else half of one."""
    spare_linear_algebra()
    limits = EngineLimits(
        block_size=16, total_blocks=8, max_num_seqs=1, max_num_batched_tokens=16, max_model_len=64
    )
    state = EngineState("warm-up", 0, 0.0, limits, free_blocks=limits.total_blocks)
    one, columns = np.ones(1, np.int64), EngineColumns.of(state)
    what_if = WhatIf(columns, model, background=Background(np.ones(1), one, one))
    what_if.ask(Newcomer.certain(Arrival("warm-up", 0.0, 1, 1, 1)))
    longest_if_sound(columns.numbers.reshape(len(FIELDS), 0), columns.arrival_s, 0, 0, 0, limits)
    arrival_rate(np.zeros(1), 0.0, 0.0)
    expected_count(0.0)
    expected_as_of_s(0.0, 0.0)
    mixed_lengths(np.ones((1, 2), np.int64))


def _spread(answers: Floats, figures: list[float]) -> PredictionSpread:
    return PredictionSpread(
        scenarios=len(answers),
        ttft_std_s=figures[TTFT_STD],
        ttft_max_s=figures[TTFT_MAX],
        e2e_std_s=figures[E2E_STD],
        e2e_max_s=figures[E2E_MAX],
        ttft_s=tuple(answers[:, TTFT].tolist()),
        e2e_s=tuple(answers[:, E2E].tolist()),
    )
