"""The wire messages of a length service, used by both ends; JSON over HTTP."""

from __future__ import annotations

import msgspec

from length_estimation.estimator import EstimationRequest, LengthEstimate

ESTIMATE_PATH = "/v1/estimate"


class EstimateRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request's length is asked for; ``prompt`` or ``messages`` as OpenAI's API has them."""

    max_tokens: int
    prompt: msgspec.Raw = msgspec.Raw(b"")
    messages: msgspec.Raw = msgspec.Raw(b"")
    model: str = ""
    temperature: float | None = None
    prompt_tokens: int | None = None
    """None lets the service count."""

    @classmethod
    def of(cls, request: EstimationRequest) -> EstimateRequest:
        """For the wire."""
        return cls(
            max_tokens=request.max_tokens,
            prompt=msgspec.Raw(request.prompt_json or b"null"),
            model=request.model,
            temperature=request.temperature,
            prompt_tokens=request.prompt_tokens,
        )


class EstimateBatch(msgspec.Struct, frozen=True):
    """``POST /v1/estimate``."""

    requests: tuple[EstimateRequest, ...]


class EstimateAnswer(msgspec.Struct, frozen=True):
    """A distribution; the quantiles' tokens before and after the request's limit."""

    mean_tokens: float
    quantiles: tuple[tuple[float, float], ...]
    source: str
    version: str
    unbounded: tuple[float, ...]

    @classmethod
    def of(cls, estimate: LengthEstimate) -> EstimateAnswer:
        """For the wire."""
        return cls(
            estimate.mean_tokens, estimate.quantiles, estimate.source, estimate.version, estimate.unbounded
        )

    @property
    def estimate(self) -> LengthEstimate:
        """From the wire."""
        return LengthEstimate(self.mean_tokens, self.quantiles, self.source, self.version, self.unbounded)


class EstimateAnswers(msgspec.Struct, frozen=True):
    """In the order of the requests."""

    estimates: tuple[EstimateAnswer, ...]
