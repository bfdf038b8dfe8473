"""The lighter of two candidates drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from global_scheduler.policies.base import Candidate, Choice, Needs, RoutingRequest


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """Weighs by outstanding tokens (Mitzenmacher's two choices, IEEE TPDS 2001).

    Copies of the scheduler that do not know of one another draw different pairs, so they do not all
    run to the same instance.
    """

    needs: ClassVar[Needs] = Needs()
    choices: Annotated[int, Field(strict=True, ge=1, le=64)] = 2
    """Candidates drawn."""

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """The drawn ones by outstanding tokens, then by requests; behind them the others, likewise."""
        order = list(candidates)
        request.dice().shuffle(order)
        drawn, others = order[: self.choices], order[self.choices :]
        return Choice.of([*sorted(drawn, key=_weight), *sorted(others, key=_weight)], "lighter_of_the_drawn")


def _weight(candidate: Candidate) -> tuple[int, int]:
    return candidate.outstanding_tokens, candidate.outstanding
