"""The policy contract: a pure choice among candidates.

A policy sees values only. It does no I/O, reads no clock, and takes chance from ``request.seed``:
the same arguments give the same choice. What it is told of the fleet's past comes from one scheduler's
own bookkeeping; other copies of the scheduler send requests too, so all of that is a hint.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import msgspec

from block.types import EngineLoad, Prediction, PredictionSpread


class RoutingRequest(msgspec.Struct, frozen=True):
    """What a policy may know of a request."""

    id: str
    model: str
    prompt_tokens: int
    """Of all its prompts."""
    output_tokens: int
    """Expected length of each response."""
    max_tokens: int
    """Of each response."""
    priority: int
    sequence: int
    """Requests that this scheduler had routed before."""
    seed: int
    """Source of chance for this request."""
    output_quantiles: tuple[tuple[float, float], ...] = ()
    """Distribution of the response length as (probability, tokens); empty when it is a point."""
    session: str = ""
    """What the client calls its conversation or its user; empty if it did not say."""
    prefix_digests: tuple[int, ...] = ()
    """One per leading block of the prompt, each for all text up to its end; empty unless asked for."""
    slo_ttft_s: float | None = None
    """Longest acceptable time to the first token; None means any."""
    slo_e2e_s: float | None = None
    """Longest acceptable time to the end of the response; None means any."""
    samples: int = 1
    """Responses to each prompt."""
    prompts: int = 1
    estimated_by: str = ""
    """Estimator that ``output_tokens`` comes from, and its version; empty if nobody was asked."""

    @property
    def sequences(self) -> int:
        """Responses in all."""
        return self.samples * self.prompts

    @property
    def tokens(self) -> int:
        """Prompts and expected output together."""
        return self.prompt_tokens + self.output_tokens * self.sequences

    def dice(self) -> random.Random:
        """A fresh random source; equal requests get equal ones."""
        return random.Random(self.seed)


class Candidate(msgspec.Struct, frozen=True):
    """An instance that could serve the request."""

    name: str
    outstanding: int
    """Requests that this scheduler has sent there and that are not over."""
    prediction: Prediction | None = None
    """None if its predictor was not asked or did not answer in time."""
    load: EngineLoad | None = None
    """Comes with the prediction; if too few predictors answered, the last known, brought up to date."""
    spread: PredictionSpread | None = None
    """Comes with the prediction."""
    outstanding_tokens: int = 0
    """Prompt and expected output tokens of the outstanding requests."""
    sent_last_minute: int = 0
    """Requests that this scheduler sent there in the last 60 s."""
    cached_tokens: int = 0
    """Leading prompt tokens probably in its prefix cache; 0 unless prefixes or predictions are asked for."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be found out before a policy can choose. Each need costs every decision something."""

    predictions: bool = False
    """Ask predictors; if too few answer, a heuristic chooses in the policy's place."""
    load: bool = False
    """Ask predictors; if too few answer, the last known loads will do."""
    harm: bool = True
    """With predictions: what the request does to the others, too. Takes a second simulation."""
    prefixes: bool = False
    """Digest the prompt's leading blocks, and look up who has seen them."""
    lengths: bool = True
    """Count the prompt's tokens and estimate the response's; if not, and nobody else needs them, the ones
    are guessed by size, and the others are what the settings say for all."""
    probes: int | None = None
    """Predictors to ask, drawn by the request's seed; None leaves it to the settings."""

    @property
    def answers(self) -> bool:
        """Whether predictors are to be asked at all."""
        return self.predictions or self.load


class Choice(msgspec.Struct, frozen=True):
    """Where the request goes, and where it would go next."""

    instance: str
    ranking: tuple[str, ...]
    """The other candidates, next best first."""
    reason: str

    @classmethod
    def of(cls, order: Iterable[Candidate], reason: str) -> Choice:
        """From the candidates, best first; at least one."""
        first, *others = [candidate.name for candidate in order]
        return cls(first, tuple(others), reason)

    @classmethod
    def least(
        cls,
        request: RoutingRequest,
        candidates: Sequence[Candidate],
        score: Callable[[Candidate], Any],
        reason: str,
    ) -> Choice:
        """Smallest ``score`` first; equal ones in an order drawn by the request's seed."""
        scores = [score(candidate) for candidate in candidates]
        order = list(range(len(scores)))
        order.sort(key=scores.__getitem__)
        if any(scores[one] == scores[next_] for one, next_ in pairwise(order)):  # else chance is not asked
            order = list(range(len(scores)))
            request.dice().shuffle(order)
            order.sort(key=scores.__getitem__)
        return cls.of([candidates[place] for place in order], reason)

    def ranks(self, candidates: Sequence[Candidate]) -> bool:
        """Whether it names each candidate exactly once."""
        if len(self.ranking) + 1 != len(candidates):
            return False
        return {self.instance, *self.ranking} == {candidate.name for candidate in candidates}


class Policy(Protocol):
    """One way to choose. A frozen dataclass will do: its fields are the policy's options."""

    @property
    def needs(self) -> Needs:
        """What has to be found out first."""
        ...

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Pick one of ``candidates`` (in fleet order, at least one) and rank the others."""
        ...
