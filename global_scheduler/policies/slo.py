"""How likely a request misses its service-level objectives at a candidate, as far as predicted."""

from __future__ import annotations

import math

from block.types import Prediction, PredictionSpread
from global_scheduler.policies.base import Candidate, RoutingRequest


def has_slo(request: RoutingRequest) -> bool:
    """Whether there is anything to miss."""
    return request.slo_ttft_s is not None or request.slo_e2e_s is not None


def miss(request: RoutingRequest, candidate: Candidate) -> tuple[float, float]:
    """Share of the predicted scenarios that miss, and by how many seconds on the mean (hits count 0).

    Only for candidates with a prediction. Without objectives, (0, 0).
    """
    assert candidate.prediction is not None
    ttft_limit_s = math.inf if request.slo_ttft_s is None else request.slo_ttft_s
    e2e_limit_s = math.inf if request.slo_e2e_s is None else request.slo_e2e_s
    misses, excess_s = 0, 0.0
    ttfts_s, e2es_s = _scenarios(candidate.prediction, candidate.spread)
    for ttft_s, e2e_s in zip(ttfts_s, e2es_s, strict=True):
        if ttft_s > ttft_limit_s or e2e_s > e2e_limit_s:
            misses += 1
            excess_s += max(ttft_s - ttft_limit_s, 0.0) + max(e2e_s - e2e_limit_s, 0.0)
    return misses / len(ttfts_s), excess_s / len(ttfts_s)


def _scenarios(
    prediction: Prediction, spread: PredictionSpread | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """TTFTs and E2Es; the means alone if the predictor did not tell the scenarios apart."""
    if spread is None or not spread.ttft_s or len(spread.ttft_s) != len(spread.e2e_s):
        return (prediction.ttft_s,), (prediction.e2e_s,)
    return spread.ttft_s, spread.e2e_s
