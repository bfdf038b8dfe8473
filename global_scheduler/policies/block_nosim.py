"""Block's view of the load, without its simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from block.types import EngineLoad
from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest
from global_scheduler.policies.by_load import least_by_load


@dataclass(frozen=True, slots=True)
class BlockNosim:
    """Fewest tokens still to be computed, expected output included (Block, arXiv 2508.03611).

    Also what chooses for policies that need predictions, when too few predictors answer.
    """

    needs: ClassVar[Needs] = Needs(load=True)

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Fewest unprocessed tokens first; the newcomer's own are the same everywhere."""
        return least_by_load(request, candidates, _score, "fewest_unprocessed_tokens")


def _score(load: EngineLoad, _: Candidate) -> float:
    return load.unprocessed_tokens
