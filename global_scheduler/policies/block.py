"""The candidate where the request is predicted to fare best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from block.types import Prediction
from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest
from global_scheduler.policies.by_prediction import least_by_prediction
from global_scheduler.policies.slo import miss

Objective = Literal["completion", "ttft", "slo", "harm"]


@dataclass(frozen=True, slots=True)
class Block:
    """Smallest simulated completion time, with a weight on the wait for the first token, or others.

    Without the weight, ``completion`` is Block's (arXiv 2508.03611, section 4).
    """

    objective: Objective = "completion"
    """Own completion, own first token, probability of missing the SLO, or completion and harm."""
    harm_weight: Annotated[float, Field(strict=True, ge=0, le=1000)] = 1.0
    """Objective ``harm``: seconds of one's own that a second of all others' together is worth."""
    ttft_weight: Annotated[float, Field(strict=True, ge=0, le=1000)] = 20.0
    """Objectives ``completion`` and ``harm``: how much more a second before the first token counts than one
    after it. Completion alone lets requests wait where their tokens then come a little quicker."""
    k: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Predictors asked per request (power of k); None leaves it to the settings."""

    @property
    def needs(self) -> Needs:
        """Predictions, of ``k`` instances."""
        return Needs(predictions=True, probes=self.k, harm=self.objective == "harm")

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """By the objective, to the microsecond; those without an answer last; ties by outstanding, then by
        seed."""
        score, reason = _OBJECTIVES[self.objective]

        def of(prediction: Prediction, candidate: Candidate) -> tuple[float, ...]:
            return score(self, request, prediction, candidate)

        return least_by_prediction(request, candidates, of, reason)


_Score = Callable[[Block, RoutingRequest, Prediction, Candidate], tuple[float, ...]]


def _completion(
    policy: Block, _request: RoutingRequest, prediction: Prediction, _candidate: Candidate
) -> tuple[float, ...]:
    return (_microseconds(_own(policy, prediction)),)


def _microseconds(seconds: float) -> float:
    """Whole ones. Idle instances that are all alike differ by the order of sums in their histories."""
    return seconds * 1e6 // 1


def _own(policy: Block, prediction: Prediction) -> float:
    return prediction.e2e_s + policy.ttft_weight * prediction.ttft_s


def _ttft(
    _policy: Block, _request: RoutingRequest, prediction: Prediction, _candidate: Candidate
) -> tuple[float, ...]:
    return _microseconds(prediction.ttft_s), _microseconds(prediction.e2e_s)


def _slo(
    _policy: Block, request: RoutingRequest, prediction: Prediction, candidate: Candidate
) -> tuple[float, ...]:
    """Equal chances (0 and 1 most of all) are told apart by how late, then by completion."""
    return *miss(request, candidate), _microseconds(prediction.e2e_s)


def _harm(
    policy: Block, _request: RoutingRequest, prediction: Prediction, _candidate: Candidate
) -> tuple[float, ...]:
    return (_microseconds(_own(policy, prediction) + policy.harm_weight * prediction.harm_sum_s),)


_OBJECTIVES: Mapping[Objective, tuple[_Score, str]] = {
    "completion": (_completion, "least_own_time"),
    "ttft": (_ttft, "earliest_first_token"),
    "slo": (_slo, "least_likely_to_miss"),
    "harm": (_harm, "least_own_and_harm"),
}
