"""Answers what-ifs from the mirror's newest state, the ledger and a step-latency model.

Knows no sockets and no clock: the time comes in by call.
"""

from __future__ import annotations

from block.latency.base import StepLatencyModel
from block.messages import CandidateRequest, PredictResponse, StateResponse
from block.simulation.what_if import WhatIf
from block.types import Arrival, EngineLoad, EngineState, Prediction, RequestState
from predictor.ledger import Ledger
from predictor.mirror import Mirror

# A response that outlives its estimate is expected to go on for this many tokens.
_OVERDUE_TOKENS = 10


class Forecaster:
    """The what-ifs of one instance, asked of its mirror."""

    def __init__(self, instance: str, model: StepLatencyModel, ledger: Ledger, mirror: Mirror) -> None:
        """``instance`` is named in answers."""
        self.instance = instance
        self.ledger = ledger
        self._model = model
        self._mirror = mirror
        self._members: object = None
        self._what_if: tuple[EngineState, int, WhatIf] | None = None

    def notice(self, now_s: float) -> None:
        """Call when the mirror has changed: who is in the engine is no longer under way."""
        members = self._mirror.members
        if members is not self._members:
            self._members = members
            self.ledger.observe((facts.id for facts in members.values()), now_s)

    def use(self, model: StepLatencyModel) -> None:
        """Answer by this step-latency model from now on."""
        self._model, self._what_if = model, None

    @property
    def state(self) -> EngineState:
        """The newest state; raises FeedError while there is none."""
        return self._mirror.state()

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
        what_if = self._current_what_if(now_s)
        newcomer = Arrival(
            id=candidate.id,
            arrival_s=now_s,
            prompt_tokens=candidate.prompt_tokens,
            output_tokens=candidate.output_tokens,
            max_tokens=candidate.max_tokens,
            priority=candidate.priority,
        )
        return what_if.ask(newcomer)

    def _current_what_if(self, now_s: float) -> WhatIf:
        """Laid out once per state and ledger, shared by all questions on them."""
        state, arrivals, version = self.state, self.ledger.arrivals(now_s), self.ledger.version
        if self._what_if is not None and self._what_if[0] is state and self._what_if[1] == version:
            return self._what_if[2]
        lengths = {r.id: self._expected_output(r) for r in (*state.running, *state.waiting)}
        what_if = WhatIf(state, self._model, lengths, arrivals)
        self._what_if = (state, version, what_if)
        return what_if

    def _expected_output(self, request: RequestState) -> int:
        expected = self.ledger.expected_output(request.id)
        if expected is None:
            return request.max_tokens
        if expected <= request.generated_tokens:
            expected = request.generated_tokens + _OVERDUE_TOKENS
        return min(expected, request.max_tokens)


def _prompt_left(request: RequestState) -> int:
    """Tokens still to be computed before the next output token can be."""
    return max(request.total_tokens - 1 - request.computed_tokens, 0)
