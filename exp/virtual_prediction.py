"""One simulated engine, asked about every request the moment it arrives: what was predicted, what came.

No clock, no noise, step times known exactly: what is left of the error is what the predictor does not know,
the requests still to come.
"""

from __future__ import annotations

from collections.abc import Sequence

from block.latency.base import StepLatencyModel
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.types import EngineLimits
from exp.cluster.load import known_load
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import AT_ONCE, ClusterSpec, SimulatedInstance
from exp.outcome import Outcome
from exp.workload import TraceRequest

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
    """The engine, and a predictor beside it: a simulated cluster of one, in which nothing else takes time."""

    def __init__(
        self,
        limits: EngineLimits,
        model: StepLatencyModel,
        requests: Sequence[TraceRequest],
        *,
        expect_arrivals: bool,
    ) -> None:
        """``requests`` in order of arrival; their lengths are known to everybody."""
        self._requests = requests
        self._spec = ClusterSpec(
            (SimulatedInstance(limits, model),), expect_arrivals=expect_arrivals, delays=AT_ONCE
        )

    def run(self) -> list[Outcome]:
        """Simulate to the end; returns each request's real and predicted times."""
        result = simulate_cluster(self._spec, known_load(self._requests)).requests
        names = ("ttft_s", "e2e_s", "predicted_ttft_s", "predicted_e2e_s")
        columns = zip(self._requests, *(result[name].to_pylist() for name in names), strict=True)
        return [_outcome(request, *times_s) for request, *times_s in columns]


def _outcome(
    request: TraceRequest, ttft_s: float, e2e_s: float, predicted_ttft_s: float, predicted_e2e_s: float
) -> Outcome:
    outcome = Outcome(request, POLICY, ttft_s=ttft_s, e2e_s=e2e_s, output_tokens=request.output_tokens)
    outcome.predicted_ttft_s, outcome.predicted_e2e_s = predicted_ttft_s, predicted_e2e_s
    return outcome
