"""Response-length estimators: a request in, a distribution of its output length out.

Knows nothing of HTTP or of instances. An estimator is chosen by name from ``ESTIMATORS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from block.errors import ConfigError


class EstimationRequest(msgspec.Struct, frozen=True):
    """What an estimator may look at."""

    prompt_tokens: int
    max_tokens: int
    """Most output tokens that the request allows."""
    declared_output_tokens: int | None = None
    """Output length that the client declared (experiments replaying a trace); None if it did not."""
    prompt_json: bytes = b""
    """The prompt or the messages as the JSON that came; empty if there was none."""


class LengthEstimate(msgspec.Struct, frozen=True):
    """Distribution of a response's length."""

    mean_tokens: float
    quantiles: tuple[tuple[float, float], ...]
    """``(probability, tokens)`` in rising order."""
    source: str
    """Name of the estimator that this came from."""

    @classmethod
    def point(cls, tokens: float, source: str) -> LengthEstimate:
        """All weight on one length."""
        return cls(tokens, ((0.5, tokens),), source)


class Estimator(Protocol):
    """Prompt -> distribution of the response length. Implementations are quick and never raise."""

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """Tokens of the response, never more than ``request.max_tokens``."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantEstimator:
    """Says the same for every request, capped by what the request allows."""

    tokens: int

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """The constant."""
        return LengthEstimate.point(min(self.tokens, request.max_tokens), "constant")


@dataclass(frozen=True, slots=True)
class MaxTokensEstimator:
    """Assumes that every response goes on to its limit: pessimistic, and never too short."""

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """The request's own limit."""
        return LengthEstimate.point(request.max_tokens, "max_tokens")


@dataclass(frozen=True, slots=True)
class OracleEstimator:
    """Believes the length that the client declares; without one, the request's limit."""

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """The declared length."""
        if request.declared_output_tokens is None:
            return LengthEstimate.point(request.max_tokens, "max_tokens")
        return LengthEstimate.point(min(request.declared_output_tokens, request.max_tokens), "oracle")


@dataclass(frozen=True, slots=True)
class EstimatorSettings:
    """What the factories need."""

    constant_output_tokens: int


ESTIMATORS: Mapping[str, Callable[[EstimatorSettings], Estimator]] = {
    "constant": lambda settings: ConstantEstimator(settings.constant_output_tokens),
    "max_tokens": lambda _: MaxTokensEstimator(),
    "oracle": lambda _: OracleEstimator(),
}


def make_estimator(name: str, settings: EstimatorSettings) -> Estimator:
    """Build the estimator of that name. Raises ConfigError that lists the known ones."""
    factory = ESTIMATORS.get(name)
    if factory is None:
        raise ConfigError(f"estimator = {name!r}: unknown; known: {', '.join(ESTIMATORS)}")
    return factory(settings)
