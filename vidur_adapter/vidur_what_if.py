"""What-ifs asked of Vidur's scheduler instead of our simulation: the original's way, and a cross-check.

The same questions and answers as ``block.simulation.what_if.WhatIf``. What Vidur does not model is left
out: steps in flight, asynchronous scheduling, prefix caching, and requests that are only expected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from block.errors import StateError
from block.latency.base import StepLatencyModel
from block.simulation.background import Background
from block.simulation.columns import EngineColumns
from block.simulation.engine import SimulatedRequest, check_request
from block.simulation.memory import Ints
from block.simulation.what_if import Newcomer
from block.types import EngineState, Prediction, PredictionSpread, RequestState, RequestStatus
from vidur_adapter.vidur_checkout import VidurCheckout
from vidur_adapter.vidur_replica import VidurReplica, by_shape


class VidurWhatIf:
    """Answers questions about one state of one engine; milliseconds to tens of them each."""

    def __init__(
        self,
        checkout: VidurCheckout,
        state: EngineState | EngineColumns,
        model: StepLatencyModel,
        output_tokens: Ints | None = None,
        committed: Sequence[Any] = (),
        background: Background | None = None,  # noqa: ARG002 - Vidur runs to the newcomer's end
        sequences: int = 1,
    ) -> None:
        """As ``WhatIf`` takes them; raises StateError for newcomers of several sequences."""
        if sequences != 1:
            raise StateError(f"sequences = {sequences}: by Vidur only 1 is answered; unset predictor.vidur")
        self._checkout, self._model = checkout, model
        known = state.state() if isinstance(state, EngineColumns) else state
        waiting = tuple(_waiting(arrival) for arrival in committed)
        self._state = replace(known, waiting=(*known.waiting, *waiting))
        if output_tokens is None:
            requests = (*self._state.running, *self._state.waiting)
            output_tokens = np.array([[request.max_tokens for request in requests]], np.int64)
        self._lengths = output_tokens
        self.scenarios, self.sequences = len(output_tokens), sequences

    def ask(
        self,
        newcomer: Newcomer,
        *,
        harm: bool = True,  # noqa: ARG002 - told in any case
    ) -> tuple[Prediction, PredictionSpread]:
        """Raises StateError when the engine could never run the newcomer."""
        arrival = newcomer.arrival
        asked = [
            SimulatedRequest(arrival.id, 0.0, arrival.prompt_tokens, tokens)
            for tokens in newcomer.output_tokens
        ]
        for request in asked:
            check_request(request, self._state.limits)
        answers = [
            self._scenario(request, lengths.tolist())
            for request, lengths in zip(asked, self._lengths, strict=True)
        ]
        age_s = max(arrival.arrival_s - self._state.time_s, 0.0)
        return _summed_up(answers, newcomer, age_s, f"{self._model.version}+vidur")

    def _scenario(self, request: SimulatedRequest, lengths: list[int]) -> _Answer:
        alone, _ = self._run(None, lengths)
        together, made = self._run(request, lengths)
        delays = np.maximum(np.array(together) - np.array(alone), 0.0) if alone else np.zeros(1)
        spaced = max(request.output_tokens - 1, 1)
        ttft_s, e2e_s = made.prefill_completed_at, made.completed_at
        return _Answer(ttft_s, e2e_s, (e2e_s - ttft_s) / spaced, float(delays.sum()), float(delays.max()))

    def _run(self, request: SimulatedRequest | None, lengths: list[int]) -> tuple[list[float], Any]:
        """When the requests held end, and the newcomer as Vidur sees it."""
        replica = VidurReplica(self._checkout, self._state.limits, by_shape(self._model.kernel))
        held = replica.hold(self._state, lengths)
        made = None if request is None else replica.add(request)
        if not replica.run_until(held if made is None else [*held, made]):
            raise StateError("Vidur: requests are left that it can never schedule")
        return [each.completed_at for each in held], made


@dataclass(frozen=True, slots=True)
class _Answer:
    """One scenario's."""

    ttft_s: float
    e2e_s: float
    tpot_s: float
    harm_sum_s: float
    harm_max_s: float


def _waiting(arrival: Any) -> RequestState:
    return RequestState(
        arrival.id, RequestStatus.WAITING, arrival.arrival_s, arrival.prompt_tokens, arrival.max_tokens
    )


def _summed_up(
    answers: list[_Answer], newcomer: Newcomer, age_s: float, version: str
) -> tuple[Prediction, PredictionSpread]:
    def mean(of: Callable[[_Answer], float]) -> float:
        return float(np.mean([of(answer) for answer in answers]))

    ttft_s = np.array([answer.ttft_s for answer in answers]) + newcomer.outside_s
    e2e_s = np.array([answer.e2e_s for answer in answers]) + newcomer.outside_s
    prediction = Prediction(
        ttft_s=float(ttft_s.mean()),
        e2e_s=float(e2e_s.mean()),
        tpot_s=mean(lambda answer: answer.tpot_s),
        harm_sum_s=mean(lambda answer: answer.harm_sum_s),
        harm_max_s=mean(lambda answer: answer.harm_max_s),
        extra_preemptions=0.0,
        state_age_s=age_s,
        model_version=version,
        confidence=1.0,
    )
    spread = PredictionSpread(
        scenarios=len(answers),
        ttft_std_s=float(ttft_s.std()),
        ttft_max_s=float(ttft_s.max()),
        e2e_std_s=float(e2e_s.std()),
        e2e_max_s=float(e2e_s.max()),
        ttft_s=tuple(ttft_s.tolist()),
        e2e_s=tuple(e2e_s.tolist()),
    )
    return prediction, spread
