"""Answers what-ifs from the newest engine state, the ledger and a step-latency model.

Knows no sockets: states and the time come in by call.
"""

from __future__ import annotations

from block.errors import FeedError
from block.latency.base import StepLatencyModel
from block.messages import CandidateRequest, PredictResponse, StateResponse
from block.simulation.what_if import WhatIf
from block.types import Arrival, EngineLoad, EngineState, Prediction, RequestState
from predictor.ledger import Ledger

# A response that outlives its estimate is expected to go on for this many tokens.
_OVERDUE_TOKENS = 10


class Forecaster:
    """The what-ifs of one instance."""

    def __init__(self, instance: str, model: StepLatencyModel, ledger: Ledger) -> None:
        """``instance`` is named in answers."""
        self.instance = instance
        self.ledger = ledger
        self._model = model
        self._state: EngineState | None = None
        self._what_if: tuple[int, WhatIf] | None = None

    def see(self, state: EngineState, now_s: float) -> None:
        """Take a newer state of the engine."""
        self._state = state
        self._what_if = None
        self.ledger.observe((request.id for request in (*state.running, *state.waiting)), now_s)

    @property
    def state(self) -> EngineState:
        """The newest state; raises FeedError while there is none."""
        if self._state is None:
            raise FeedError(f"{self.instance}: no engine state yet; is its state feed running?")
        return self._state

    def predict(self, candidate: CandidateRequest, now_s: float) -> PredictResponse:
        """One what-if. Raises FeedError without a state, StateError for what could never run."""
        return PredictResponse(
            instance=self.instance,
            prediction=self._ask(candidate, now_s),
            load=self.load(now_s),
            state_step=self.state.step,
        )

    def describe(self, now_s: float, ready: bool, problem: str) -> StateResponse:
        """The mirror in brief; raises FeedError without a state."""
        return StateResponse(
            instance=self.instance,
            ready=ready,
            state_step=self.state.step,
            state_age_s=max(now_s - self.state.time_s, 0.0),
            load=self.load(now_s),
            model_version=self._model.version,
            problem=problem,
        )

    def load(self, now_s: float) -> EngineLoad:
        """Counters for heuristics, choices under way included."""
        state, arrivals = self.state, self.ledger.arrivals(now_s)
        present = (*state.running, *state.waiting)
        prompt_left = sum(_prompt_left(request) for request in present)
        prompt_left += sum(arrival.prompt_tokens for arrival in arrivals)
        output_left = sum(self._expected_output(r) - r.generated_tokens for r in present)
        output_left += sum(arrival.output_tokens for arrival in arrivals)
        return EngineLoad(
            running=len(state.running),
            waiting=len(state.waiting),
            committed=len(arrivals),
            free_blocks=state.free_blocks,
            total_blocks=state.limits.total_blocks,
            waiting_prompt_tokens=prompt_left,
            unprocessed_tokens=prompt_left + output_left,
        )

    def _ask(self, candidate: CandidateRequest, now_s: float) -> Prediction:
        arrivals = self.ledger.arrivals(now_s)
        if self._what_if is None or self._what_if[0] != self.ledger.version:
            lengths = {r.id: self._expected_output(r) for r in (*self.state.running, *self.state.waiting)}
            self._what_if = (self.ledger.version, WhatIf(self.state, self._model, lengths, arrivals))
        newcomer = Arrival(
            id=candidate.id,
            arrival_s=now_s,
            prompt_tokens=candidate.prompt_tokens,
            output_tokens=candidate.output_tokens,
            max_tokens=candidate.max_tokens,
            priority=candidate.priority,
        )
        return self._what_if[1].ask(newcomer)

    def _expected_output(self, request: RequestState) -> int:
        expected = self.ledger.expected_output(request.id)
        if expected is None:
            return request.max_tokens
        if expected <= request.generated_tokens:
            expected = request.generated_tokens + _OVERDUE_TOKENS
        return min(expected, request.max_tokens)


def _prompt_left(request: RequestState) -> int:
    """Tokens to compute before the next output token; a preempted request computes its output anew."""
    return (
        max(request.total_tokens - request.computed_tokens, 0)
        if request.computed_tokens < (request.prompt_tokens)
        else 0
    )
