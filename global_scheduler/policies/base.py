"""The policy contract: a pure choice among candidates.

A policy sees values only. It does no I/O, reads no clock, and takes chance from ``request.seed``:
the same arguments give the same choice.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from block.types import EngineLoad, Prediction


@dataclass(frozen=True, slots=True)
class RoutingRequest:
    """What a policy may know of a request."""

    id: str
    model: str
    prompt_tokens: int
    output_tokens: int
    """Expected length of the response."""
    max_tokens: int
    priority: int
    sequence: int
    """Requests that this scheduler had routed before."""
    seed: int
    """Source of chance for this request."""
    output_quantiles: tuple[tuple[float, float], ...] = ()
    """Distribution of the response length as (probability, tokens); empty when it is a point."""

    def dice(self) -> random.Random:
        """A fresh random source; equal requests get equal ones."""
        return random.Random(self.seed)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance that could serve the request."""

    name: str
    outstanding: int
    """Requests that this scheduler has sent there and that are not over."""
    prediction: Prediction | None = None
    """None if its predictor was not asked or did not answer in time."""
    load: EngineLoad | None = None
    """Comes with the prediction."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where the request goes, and where it would go next."""

    instance: str
    ranking: tuple[str, ...]
    """The other candidates, next best first."""
    reason: str

    @classmethod
    def of(cls, order: Iterable[Candidate], reason: str) -> Choice:
        """From the candidates, best first; at least one."""
        first, *others = (candidate.name for candidate in order)
        return cls(first, tuple(others), reason)


class Policy(Protocol):
    """One way to choose."""

    @property
    def uses_predictions(self) -> bool:
        """Whether predictors are worth asking."""
        ...

    def choose(self, request: RoutingRequest, candidates: Sequence[Candidate]) -> Choice:
        """Pick one of ``candidates`` (in fleet order, at least one) and rank the others."""
        ...
