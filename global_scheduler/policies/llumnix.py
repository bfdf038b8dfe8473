"""INFaaS++'s score, with the blocks that waiting prompts will take already taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from block.types import EngineLoad
from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest
from global_scheduler.policies.by_load import batch_size, least_by_load

BlockSize = Annotated[int, Field(strict=True, ge=1, le=1024)]


@dataclass(frozen=True, slots=True)
class Llumnix:
    """llumnix- as run by Block's authors (arXiv 2508.03611): (free - waiting blocks) / running.

    Llumnix' virtual usage (arXiv 2406.03243) without its migration of running requests.
    """

    needs: ClassVar[Needs] = Needs(load=True)
    block_size: BlockSize = 16
    """Tokens per KV block of the engines."""

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Most freedom per running request first."""

        def score(load: EngineLoad, _: Candidate) -> float:
            return -(load.free_blocks - _waiting_blocks(load, self.block_size)) / batch_size(load)

        return least_by_load(request, candidates, score, "most_freeness")


@dataclass(frozen=True, slots=True)
class LlumnixTextbook:
    """llumnix- as written down: (used + waiting blocks) / batch size."""

    needs: ClassVar[Needs] = Needs(load=True)
    block_size: BlockSize = 16
    """Tokens per KV block of the engines."""

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Fewest blocks used or asked for per running request first."""

        def score(load: EngineLoad, _: Candidate) -> float:
            used = load.total_blocks - load.free_blocks
            return (used + _waiting_blocks(load, self.block_size)) / batch_size(load)

        return least_by_load(request, candidates, score, "least_virtual_usage")


def _waiting_blocks(load: EngineLoad, block_size: int) -> int:
    return -(-load.waiting_prompt_tokens // block_size)
