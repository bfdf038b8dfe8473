"""How likely a request misses its service-level objectives at a candidate, as far as predicted."""

from __future__ import annotations

from block.types import Prediction, PredictionSpread
from global_scheduler.policies.base import Candidate, RoutingRequest


def has_slo(request: RoutingRequest) -> bool:
    """Whether there is anything to miss."""
    return request.slo_ttft_s is not None or request.slo_e2e_s is not None


def miss(request: RoutingRequest, candidate: Candidate) -> tuple[float, float]:
    """Probability of a miss, and by how many seconds on the mean (hits count 0).

    Only for candidates with a prediction. Without objectives, (0, 0).
    """
    assert candidate.prediction is not None
    excesses = [_excess_s(request, *times) for times in _scenarios(candidate.prediction, candidate.spread)]
    return sum(excess > 0 for excess in excesses) / len(excesses), sum(excesses) / len(excesses)


def _scenarios(prediction: Prediction, spread: PredictionSpread | None) -> list[tuple[float, float]]:
    """(TTFT, E2E) pairs; the means alone if the predictor did not tell the scenarios apart."""
    if spread is None or not spread.ttft_s or len(spread.ttft_s) != len(spread.e2e_s):
        return [(prediction.ttft_s, prediction.e2e_s)]
    return list(zip(spread.ttft_s, spread.e2e_s, strict=True))


def _excess_s(request: RoutingRequest, ttft_s: float, e2e_s: float) -> float:
    """Seconds beyond the objectives, of both together."""
    excess = 0.0
    if request.slo_ttft_s is not None and ttft_s > request.slo_ttft_s:
        excess += ttft_s - request.slo_ttft_s
    if request.slo_e2e_s is not None and e2e_s > request.slo_e2e_s:
        excess += e2e_s - request.slo_e2e_s
    return excess
