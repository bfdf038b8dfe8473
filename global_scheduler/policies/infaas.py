"""The candidate with the most free KV blocks per running request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from block.types import EngineLoad
from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest
from global_scheduler.policies.by_load import batch_size, least_by_load


@dataclass(frozen=True, slots=True)
class Infaas:
    """INFaaS++ as run by Block's authors (arXiv 2508.03611): free blocks / running."""

    needs: ClassVar[Needs] = Needs(load=True)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Most free blocks per running request first."""
        return least_by_load(request, candidates, _score, "most_free_blocks")


@dataclass(frozen=True, slots=True)
class InfaasTextbook:
    """INFaaS++ as written down (arXiv 2406.03243): used blocks / batch size."""

    needs: ClassVar[Needs] = Needs(load=True)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Fewest used blocks per running request first."""
        return least_by_load(request, candidates, _textbook_score, "fewest_used_blocks")


def _score(load: EngineLoad, _: Candidate) -> float:
    return -load.free_blocks / batch_size(load)


def _textbook_score(load: EngineLoad, _: Candidate) -> float:
    return (load.total_blocks - load.free_blocks) / batch_size(load)
