"""Answers what-ifs from the mirror's newest state, the ledger and a step-latency model.

Knows no sockets and no clock: the time comes in by call.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from block.latency.base import StepLatencyModel
from block.lengths import LengthDistribution, scenario_levels
from block.messages import CandidateRequest, PredictResponse, RequestFacts, StateResponse
from block.simulation.background import Background
from block.simulation.memory import Ints
from block.simulation.what_if import Newcomer, WhatIf
from block.types import Arrival, EngineLoad, EngineState, RequestState
from predictor.arrival_process import ArrivalProcess
from predictor.ledger import Ledger, length_of, router_id
from predictor.mirror import Mirror

_Basis = tuple[EngineState, int, int]
"""State, ledger version and number of scenarios that a layout belongs to."""


class Forecaster:
    """The what-ifs of one instance, asked of its mirror."""

    def __init__(
        self,
        instance: str,
        model: StepLatencyModel,
        ledger: Ledger,
        mirror: Mirror,
        *,
        expect_arrivals: bool = False,
    ) -> None:
        """``instance`` is named in answers. ``expect_arrivals``: what-ifs count on more like the latest."""
        self.instance = instance
        self.ledger = ledger
        self._model = model
        self._mirror = mirror
        self._members: Mapping[int, RequestFacts] = {}
        self._arrivals = ArrivalProcess(ledger.length) if expect_arrivals else None
        self._what_if: tuple[_Basis, WhatIf] | None = None

    def notice(self, now_s: float) -> None:
        """Call when the mirror has changed: who is in the engine is no longer under way."""
        members = self._mirror.members
        if members is not self._members:
            known, self._members = self._members, members
            self.ledger.observe((facts.id for facts in members.values()), now_s)
            if self._arrivals is not None:
                self._arrivals.note((members[h] for h in members.keys() - known.keys()), now_s)

    def use(self, model: StepLatencyModel) -> None:
        """Answer by this step-latency model from now on."""
        self._model, self._what_if = model, None

    @property
    def state(self) -> EngineState:
        """The newest state; raises FeedError while there is none."""
        return self._mirror.state()

    def predict(self, candidate: CandidateRequest, now_s: float, scenarios: int = 1) -> PredictResponse:
        """One what-if. Raises FeedError without a state, StateError for what could never run."""
        what_if = self._current_what_if(now_s, scenarios)
        arrival = Arrival(
            id=candidate.id,
            arrival_s=now_s,
            prompt_tokens=candidate.prompt_tokens,
            output_tokens=candidate.output_tokens,
            max_tokens=candidate.max_tokens,
            priority=candidate.priority,
        )
        lengths = _scenario_lengths(length_of(candidate), candidate.id, 0, candidate.max_tokens, scenarios)
        prediction, spread = what_if.ask(Newcomer(arrival, tuple(lengths.tolist())))
        return PredictResponse(
            instance=self.instance,
            prediction=prediction,
            spread=spread,
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

    def _current_what_if(self, now_s: float, scenarios: int) -> WhatIf:
        """Laid out once per state, ledger and number of scenarios; shared by all questions on them."""
        state, arrivals = self.state, self._admissible(now_s)
        basis = (state, self.ledger.version, scenarios)
        if self._what_if is None or not _same(self._what_if[0], basis):
            lengths = self._lengths(state, arrivals, scenarios)
            self._what_if = (basis, WhatIf(state, self._model, lengths, arrivals, self._background()))
        return self._what_if[1]

    def _background(self) -> Background | None:
        return None if self._arrivals is None else self._arrivals.expected(self.state.time_s)

    def _admissible(self, now_s: float) -> tuple[Arrival, ...]:
        """Choices under way, less those that vLLM refuses at its door: they never reach the queue."""
        longest = self.state.limits.max_model_len - 1
        return tuple(a for a in self.ledger.arrivals(now_s) if 1 <= a.prompt_tokens <= longest)

    def _lengths(self, state: EngineState, arrivals: tuple[Arrival, ...], scenarios: int) -> Ints:
        """(scenarios, requests) response lengths of all that is in the engine or under way to it."""
        rows = [
            self._lengths_of(request.id, request.generated_tokens, request.max_tokens, scenarios)
            for request in (*state.running, *state.waiting)
        ]
        rows += [self._lengths_of(arrival.id, 0, arrival.max_tokens, scenarios) for arrival in arrivals]
        return np.array(rows, np.int64).reshape(len(rows), scenarios).T

    def _lengths_of(self, request_id: str, generated: int, max_tokens: int, scenarios: int) -> Ints:
        length = self.ledger.length(request_id)
        if length is None:
            return np.full(scenarios, max_tokens)
        return _scenario_lengths(length, router_id(request_id), generated, max_tokens, scenarios)

    def _expected_output(self, request: RequestState) -> int:
        return int(self._lengths_of(request.id, request.generated_tokens, request.max_tokens, 1)[0])


def _scenario_lengths(
    length: LengthDistribution, request_id: str, generated: int, max_tokens: int, scenarios: int
) -> Ints:
    """Whole tokens in each scenario; a single scenario takes the conditional mean."""
    if scenarios == 1:
        totals = np.array([length.mean(generated)])
    else:
        totals = length.totals(scenario_levels(request_id, scenarios), generated)
    whole: Ints = np.minimum(np.maximum(np.rint(totals), 1), max_tokens).astype(np.int64)
    return whole


def _same(basis: _Basis, other: _Basis) -> bool:
    return basis[0] is other[0] and basis[1:] == other[1:]


def _prompt_left(request: RequestState) -> int:
    """Tokens still to be computed before the next output token can be."""
    return max(request.total_tokens - 1 - request.computed_tokens, 0)
