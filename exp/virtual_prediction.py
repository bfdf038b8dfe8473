"""One simulated engine, asked about every request the moment it arrives: what was predicted, what came.

No clock, no noise, step times known exactly: what is left of the error is what the predictor does not know,
the requests still to come. Uses the predictor's own mirror, ledger and forecaster, fed as by an engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from block.latency.base import StepLatencyModel
from block.messages import CandidateRequest
from block.simulation import layout
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.loop import STUCK, advance
from block.types import EngineLimits, EngineState
from exp.outcome import Outcome
from exp.simulated_feed import SimulatedFeed
from exp.workload import TraceRequest
from predictor.forecaster import Forecaster
from predictor.ledger import Ledger
from predictor.mirror import Mirror

POLICY = "simulated"


def capacity_per_s(limits: EngineLimits, model: StepLatencyModel, requests: Sequence[TraceRequest]) -> float:
    """Requests per second that a full engine completes: between the first and the third quarter."""
    burst = [SimulatedRequest(str(i), 0.0, r.prompt_tokens, r.output_tokens) for i, r in enumerate(requests)]
    engine = EngineSimulation(limits, model.kernel, burst)
    engine.run()
    ends = sorted(outcome.finish_s for outcome in engine.outcomes())
    quarter = len(ends) // 4
    return 2 * quarter / (ends[3 * quarter] - ends[quarter])


class VirtualPredictions:
    """The engine, and a predictor beside it."""

    def __init__(
        self,
        limits: EngineLimits,
        model: StepLatencyModel,
        requests: Sequence[TraceRequest],
        *,
        expect_arrivals: bool,
    ) -> None:
        """``requests`` in order of arrival."""
        simulated = [
            SimulatedRequest(str(i), r.arrival_s, r.prompt_tokens, r.output_tokens)
            for i, r in enumerate(requests)
        ]
        self._engine = EngineSimulation(limits, model.kernel, simulated)
        self._outcomes = [Outcome(request, POLICY) for request in requests]
        self._asked = 0
        self._mirror, self._feed = Mirror(), SimulatedFeed()
        ledger = Ledger(ttl_s=float("inf"))
        self._forecaster = Forecaster("0", model, ledger, self._mirror, expect_arrivals=expect_arrivals)
        empty = EngineState("simulated", 0, 0.0, limits, free_blocks=limits.total_blocks)
        self._mirror.apply(self._feed.snapshot(empty))
        self._forecaster.notice(0.0)

    def run(self) -> list[Outcome]:
        """Simulate to the end; returns each request's real and predicted times."""
        memory = self._engine.memory
        while advance(memory.s, memory.f) > STUCK:
            now_s = float(memory.f[layout.NOW])
            self._ask_until(now_s)
            self._mirror.apply(self._feed.delta(self._engine.state()))
            self._forecaster.notice(now_s)
        for outcome, fate in zip(self._outcomes, self._engine.outcomes(), strict=True):
            outcome.ttft_s = fate.first_token_s - outcome.request.arrival_s
            outcome.e2e_s = fate.finish_s - outcome.request.arrival_s
            outcome.output_tokens = fate.generated_tokens
        return self._outcomes

    def _ask_until(self, now_s: float) -> None:
        """Ask about, and then commit, all that has arrived by ``now_s`` and the engine has not seen."""
        while self._asked < len(self._outcomes):
            outcome = self._outcomes[self._asked]
            request = outcome.request
            if request.arrival_s > now_s:
                return
            candidate = CandidateRequest(
                str(self._asked), request.prompt_tokens, request.output_tokens, request.output_tokens
            )
            answer = self._forecaster.predict(candidate, request.arrival_s)
            outcome.predicted_ttft_s = answer.prediction.ttft_s
            outcome.predicted_e2e_s = answer.prediction.e2e_s
            self._forecaster.ledger.commit(candidate, request.arrival_s)
            self._asked += 1
