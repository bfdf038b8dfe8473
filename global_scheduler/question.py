"""What predictors are asked for one decision: about whom, how much, and how long it is waited for."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from block.messages import CandidateRequest, Wanted
from global_scheduler.quorum import Quorum


class Question(msgspec.Struct, frozen=True):
    """One question to several predictors."""

    candidate: CandidateRequest
    seed: int
    """Source of chance: who is asked, if not all are."""
    wanted: Wanted = "harm"
    quorum: Quorum = Quorum()
    cached_tokens: Mapping[str, int] = {}
    """Of the prompt's leading tokens, those that an instance has probably cached; by name, none left out."""

    def about(self, name: str) -> CandidateRequest:
        """The candidate as it would come to the instance of that name."""
        cached = self.cached_tokens.get(name, 0)
        return msgspec.structs.replace(self.candidate, cached_tokens=cached) if cached else self.candidate
