"""The contract of response-length estimators: a request in, a distribution of its output length out.

Knows nothing of HTTP or of instances. An estimator is quick, never raises on any content, and never
says more than the request allows; one that also learns from completed requests is a ``Learner``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import msgspec

from length_estimation.quantiles import Quantiles, mean_of, within


class EstimationRequest(msgspec.Struct, frozen=True):
    """What an estimator may look at."""

    prompt_tokens: int
    max_tokens: int
    """Most output tokens that the request allows."""
    declared_output_tokens: int | None = None
    """Output length that the client declared (experiments replaying a trace); None if it did not."""
    prompt_json: bytes = b""
    """The prompt or the messages as the JSON that came; empty if there was none."""
    model: str = ""
    """Name that the client asked for; empty if it named none."""
    temperature: float | None = None
    """Sampling temperature; None if the client left it to the engine."""


class LengthEstimate(msgspec.Struct, frozen=True):
    """Distribution of a response's length."""

    mean_tokens: float
    quantiles: Quantiles
    """``(probability, tokens)`` in rising order."""
    source: str
    """Name of the estimator that this came from."""
    version: str = ""
    """Which model, at which state of learning; empty where there is only one."""
    unbounded: tuple[float, ...] = ()
    """The quantiles' tokens as they were before the request's limit: what recalibration learns from."""

    @classmethod
    def point(cls, tokens: float, most: int, source: str) -> Self:
        """All weight on one length, cut at the limit ``most``."""
        bounded = min(tokens, most)
        return cls(bounded, ((0.5, bounded),), source, unbounded=(tokens,))

    @classmethod
    def of(
        cls, levels: Sequence[float], tokens: Sequence[float], most: int, source: str, version: str = ""
    ) -> Self:
        """Quantiles ``tokens`` at ``levels`` (rising, within (0, 1)), cut at the limit ``most``."""
        unbounded = within(tokens, float(2**31))
        bounded = within(unbounded, most)
        mean = mean_of(levels, unbounded, most)
        return cls(max(1.0, mean), tuple(zip(levels, bounded, strict=True)), source, version, unbounded)

    @property
    def origin(self) -> str:
        """Source and version, for records."""
        return f"{self.source} {self.version}" if self.version else self.source

    @property
    def median_tokens(self) -> float:
        """The quantile nearest to one half."""
        return min(self.quantiles, key=lambda pair: abs(pair[0] - 0.5))[1]


@dataclass(frozen=True, slots=True)
class Completion:
    """A request that is over: what was asked, what had been expected, what came."""

    request: EstimationRequest
    estimate: LengthEstimate
    output_tokens: int
    cut: bool = False
    """Ended at its limit: the response would have gone on."""


class Estimator(Protocol):
    """Prompt -> distribution of the response length. Implementations are quick and never raise."""

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """Tokens of the response, never more than ``request.max_tokens``."""
        ...


@runtime_checkable
class Learner(Protocol):
    """An estimator that completed requests improve."""

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """As every estimator."""
        ...

    def learn(self, completion: Completion) -> None:
        """Take note of what became of a request."""
        ...

    def reset(self, model: str | None = None) -> None:
        """Forget what was learned about ``model``; None forgets everything."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantEstimator:
    """Says the same for every request, capped by what the request allows."""

    tokens: int

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """The constant."""
        return LengthEstimate.point(self.tokens, request.max_tokens, "constant")


@dataclass(frozen=True, slots=True)
class MaxTokensEstimator:
    """Assumes that every response goes on to its limit: pessimistic, and never too short."""

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """The request's own limit."""
        return LengthEstimate.point(request.max_tokens, request.max_tokens, "max_tokens")


@dataclass(frozen=True, slots=True)
class OracleEstimator:
    """Believes the length that the client declares; without one, the request's limit."""

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """The declared length."""
        if request.declared_output_tokens is None:
            return LengthEstimate.point(request.max_tokens, request.max_tokens, "max_tokens")
        return LengthEstimate.point(request.declared_output_tokens, request.max_tokens, "oracle")
