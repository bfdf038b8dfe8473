"""Prefill work times batch size: one product that weighs cache hits against balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from block.types import EngineLoad
from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest
from global_scheduler.policies.by_load import least_by_load


@dataclass(frozen=True, slots=True)
class LMetric:
    """New prefill tokens that are not cached x requests there (LMetric, arXiv 2603.15202).

    Both factors count the newcomer, so that an idle instance does not make the product 0 whatever it
    would have to compute; prompts that wait there already are prefill work too.
    """

    needs: ClassVar[Needs] = Needs(load=True, prefixes=True)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Smallest product first."""

        def score(load: EngineLoad, candidate: Candidate) -> float:
            prefill = load.waiting_prompt_tokens + max(request.prompt_tokens - candidate.cached_tokens, 0)
            return prefill * (load.running + load.waiting + load.committed + 1)

        return least_by_load(request, candidates, score, "least_prefill_x_batch")
