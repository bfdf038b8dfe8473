"""One step's batch in the detail that attention kernels care for: every chunk, every context."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from block.types import BatchShape


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one step computes."""

    chunks: tuple[tuple[float, float], ...]
    """Per prompt chunk: its tokens, and the tokens computed before it."""
    contexts: tuple[float, ...]
    """Per decode: tokens that attention reads, the new one included."""

    @classmethod
    def of(cls, scheduled: Iterable[tuple[int, int]]) -> Self:
        """From ``(scheduled tokens, computed tokens afterwards)``, as ``BatchShape.of`` takes them."""
        pairs = tuple(scheduled)
        return cls(
            tuple((tokens, computed - tokens) for tokens, computed in pairs if tokens > 1),
            tuple(computed for tokens, computed in pairs if tokens == 1),
        )

    @classmethod
    def of_shape(cls, shape: BatchShape) -> Self:
        """The plainest batch of a shape: equal chunks, equal contexts."""
        count = shape.requests - shape.decode_tokens
        computed = shape.prefill_context_products / shape.prefill_tokens if count else 0.0
        chunk = shape.prefill_tokens / count if count else 0.0
        context = (shape.context_tokens - count * computed) / max(shape.decode_tokens, 1)
        return cls(((chunk, max(computed - chunk, 0.0)),) * count, (max(context, 1.0),) * shape.decode_tokens)

    @property
    def prefill_tokens(self) -> float:
        """Of all chunks."""
        return sum(tokens for tokens, _ in self.chunks)

    @property
    def tokens(self) -> float:
        """All scheduled tokens."""
        return self.prefill_tokens + len(self.contexts)

    @property
    def requests(self) -> int:
        """Sequences, each of which is sampled from."""
        return len(self.chunks) + len(self.contexts)

    @property
    def mean_context(self) -> float:
        """Over the decodes; 0 without any."""
        return sum(self.contexts) / len(self.contexts) if self.contexts else 0.0

    @property
    def shape(self) -> BatchShape:
        """What a ``StepLatencyModel`` sees of it."""
        pairs = [(round(tokens), round(tokens + before)) for tokens, before in self.chunks]
        return BatchShape.of([*pairs, *((1, round(context)) for context in self.contexts)])
