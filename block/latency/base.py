"""The step-latency contract: what a batch of a given shape costs in seconds.

Every implementation also reduces itself to ``KernelLatency``, the one form that the compiled
simulation evaluates: a piecewise-linear curve over the step's tokens plus terms linear in context.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Protocol, Self

from block.errors import PackError
from block.types import BatchShape


@dataclass(frozen=True, slots=True)
class KernelLatency:
    """seconds = curve(tokens) + linear terms; beyond its ends the curve goes on straight."""

    token_knots: tuple[float, ...]
    """Strictly rising token counts, at least two."""
    token_seconds: tuple[float, ...]
    """Seconds at each knot."""
    per_context_token_s: float = 0.0
    """Per token of the scheduled requests' context (``BatchShape.context_tokens``)."""
    per_prefill_product_s: float = 0.0
    """Per ``BatchShape.prefill_context_products``."""
    per_request_s: float = 0.0

    def __post_init__(self) -> None:
        if len(self.token_knots) < 2 or len(self.token_knots) != len(self.token_seconds):
            raise PackError("token_knots and token_seconds: need two or more entries, equally many")
        if any(b <= a for a, b in zip(self.token_knots, self.token_knots[1:], strict=False)):
            raise PackError("token_knots: must rise strictly")

    def seconds(self, shape: BatchShape) -> float:
        """Evaluate at a batch shape; the compiled kernel computes exactly this."""
        knots, values = self.token_knots, self.token_seconds
        upper = min(max(bisect_right(knots, shape.tokens), 1), len(knots) - 1)
        slope = (values[upper] - values[upper - 1]) / (knots[upper] - knots[upper - 1])
        return (
            values[upper - 1]
            + slope * (shape.tokens - knots[upper - 1])
            + self.per_context_token_s * shape.context_tokens
            + self.per_prefill_product_s * shape.prefill_context_products
            + self.per_request_s * shape.requests
        )

    def scaled(self, factor: float) -> Self:
        """Every step takes ``factor`` times as long."""
        return type(self)(
            self.token_knots,
            tuple(seconds * factor for seconds in self.token_seconds),
            self.per_context_token_s * factor,
            self.per_prefill_product_s * factor,
            self.per_request_s * factor,
        )


class StepLatencyModel(Protocol):
    """Batch shape -> seconds. Implementations are immutable; calibration makes a new one."""

    @property
    def version(self) -> str:
        """Name and calibration, for answers and logs."""
        ...

    @property
    def kernel(self) -> KernelLatency:
        """The form that the compiled simulation evaluates."""
        ...

    def seconds(self, shape: BatchShape) -> float:
        """Duration of one step of this shape, the engine's own work included."""
        ...

    def covers(self, shape: BatchShape) -> bool:
        """Whether the shape lies inside what the model was made from."""
        ...
