"""One copy of the scheduler in virtual time: the router's own policy, request and bookkeeping objects.

It knows what it sent and what predictors answered; nothing of other copies, and nothing of engines.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs

from block.simulation.fleet import Answers
from block.simulation.what_if_runs import (
    E2E,
    E2E_MAX,
    E2E_STD,
    FIGURES,
    HARM_MAX,
    HARM_SUM,
    OUTSIDE,
    PREEMPTIONS,
    STEPS,
    TPOT,
    TTFT,
    TTFT_MAX,
    TTFT_STD,
)
from block.types import EngineLoad, Prediction, PredictionSpread
from global_scheduler.policies import Candidate, Choice, Policy, RoutingRequest
from global_scheduler.policies.least_request import LeastRequest
from global_scheduler.traffic import Burden, Traffic

_MODEL = "simulated"
_OUTSIDE_COUNTS = np.isin(np.arange(FIGURES), (TTFT, TTFT_MAX, E2E, E2E_MAX))
"""Figures that time outside of the engine is part of."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one predictor said."""

    load: EngineLoad
    prediction: Prediction | None = None
    spread: PredictionSpread | None = None


class Router:
    """Chooses for the requests that come to it."""

    def __init__(self, policy: Policy, instances: int, probes: int | None) -> None:
        self.policy = policy
        self.sequence = 0
        self.names = [str(index) for index in range(instances)]
        self.traffic = [Traffic() for _ in range(instances)]
        self._probes = probes if policy.needs.probes is None else policy.needs.probes
        self._unasked: dict[int, Candidate] = {}
        self._second = -1

    def next_seed(self, request_id: str) -> int:
        """Source of chance for the next request, as the router has it."""
        seed = zlib.crc32(request_id.encode()) ^ self.sequence
        self.sequence += 1
        return seed

    def to_ask(self, eligible: Sequence[int], seed: int) -> Sequence[int]:
        """Whose predictors are asked about the request of that seed."""
        if not self.policy.needs.answers:
            return ()
        if self._probes is None or self._probes >= len(eligible):
            return eligible
        return random.Random(seed).sample(list(eligible), self._probes)

    def choose(
        self,
        request: RoutingRequest,
        eligible: Sequence[int],
        told: Mapping[int, Told],
        cached: Mapping[int, int],
        now_s: float,
    ) -> Choice:
        """One of the eligible, at least one, and the others in order. ``cached``: tokens of its prompt."""
        candidates = [
            structs.replace(one, cached_tokens=tokens) if (tokens := cached.get(index, 0)) else one
            for index, one in zip(eligible, self._line_up(eligible, told, now_s), strict=True)
        ]
        if self.policy.needs.answers and not told:
            return LeastRequest().choose(request, candidates)
        return self.policy.choose(request, candidates)

    def begin(self, instance: int, burden: Burden, now_s: float) -> int:
        """A request is sent there; the number by which to end it."""
        self._unasked.pop(instance, None)
        return self.traffic[instance].begin(burden, now_s)

    def end(self, instance: int, number: int) -> None:
        """It is over, however it ended."""
        self._unasked.pop(instance, None)
        self.traffic[instance].end(number)

    def _line_up(self, eligible: Sequence[int], told: Mapping[int, Told], now_s: float) -> list[Candidate]:
        if int(now_s) != self._second:  # what was sent in the last minute is counted in whole seconds
            self._second = int(now_s)
            self._unasked.clear()
        return [
            self._asked(index, told[index], now_s) if index in told else self._not_asked(index, now_s)
            for index in eligible
        ]

    def _asked(self, index: int, told: Told, now_s: float) -> Candidate:
        traffic = self.traffic[index]
        return Candidate(
            name=self.names[index],
            outstanding=traffic.outstanding,
            prediction=told.prediction,
            load=told.load,
            spread=told.spread,
            outstanding_tokens=traffic.outstanding_tokens,
            sent_last_minute=traffic.sent_last_minute(now_s),
        )

    def _not_asked(self, index: int, now_s: float) -> Candidate:
        known = self._unasked.get(index)
        if known is None:
            traffic = self.traffic[index]
            known = self._unasked[index] = Candidate(
                name=self.names[index],
                outstanding=traffic.outstanding,
                outstanding_tokens=traffic.outstanding_tokens,
                sent_last_minute=traffic.sent_last_minute(now_s),
            )
        return known


def told_by(
    asked: Sequence[int], answers: Answers, outside_s: float, ages_s: Sequence[float]
) -> dict[int, Told]:
    """The answers by instance, as values that policies see."""
    rows = zip(
        asked,
        (answers.figures + _OUTSIDE_COUNTS * outside_s).tolist(),
        (answers.answers[:, :, TTFT] + outside_s).tolist(),
        (answers.answers[:, :, E2E] + outside_s).tolist(),
        answers.loads.tolist(),
        ages_s,
        strict=True,
    )
    return {
        index: Told(EngineLoad(*load), _prediction(figures, age_s), _spread(figures, ttft_s, e2e_s))
        for index, figures, ttft_s, e2e_s, load, age_s in rows
    }


def _prediction(figures: Sequence[float], age_s: float) -> Prediction:
    return Prediction(
        ttft_s=figures[TTFT],
        e2e_s=figures[E2E],
        tpot_s=figures[TPOT],
        harm_sum_s=figures[HARM_SUM],
        harm_max_s=figures[HARM_MAX],
        extra_preemptions=figures[PREEMPTIONS],
        state_age_s=age_s,
        model_version=_MODEL,
        confidence=1.0 - figures[OUTSIDE] / max(figures[STEPS], 1.0),
    )


def _spread(figures: Sequence[float], ttft_s: Sequence[float], e2e_s: Sequence[float]) -> PredictionSpread:
    return PredictionSpread(
        scenarios=len(ttft_s),
        ttft_std_s=figures[TTFT_STD],
        ttft_max_s=figures[TTFT_MAX],
        e2e_std_s=figures[E2E_STD],
        e2e_max_s=figures[E2E_MAX],
        ttft_s=tuple(ttft_s),
        e2e_s=tuple(e2e_s),
    )
