"""The candidate where all requests together are predicted to wait least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from block.types import Prediction
from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest
from global_scheduler.policies.by_prediction import least_by_prediction


@dataclass(frozen=True, slots=True)
class MinLatency:
    """Smallest mean latency of all requests, the newcomer's and the others' (arXiv 2508.03611).

    Whatever the others' latencies are, the fleet's mean is least where the newcomer's completion time
    and the delay that it causes add up to least. (The original compares each instance's own mean, which
    favours instances whose requests happen to be short.)
    """

    needs: ClassVar[Needs] = Needs(predictions=True)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Smallest own completion time plus harm first."""
        return least_by_prediction(request, candidates, _score, "least_total_latency")


def _score(prediction: Prediction, _: Candidate) -> tuple[float, ...]:
    return (prediction.e2e_s + prediction.harm_sum_s,)
