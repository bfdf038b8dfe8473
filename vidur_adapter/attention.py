"""What one layer's attention costs for a batch, from tables of different make.

Tables hold one chunk, or decodes of one common context. Batches hold several of both: chunks are replaced
by one that computes as many pairs of tokens, decodes by as many of mean context, plus what unevenness costs
where that was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np

from vidur_adapter.batch import StepBatch
from vidur_adapter.operator import Operator, Timings
from vidur_adapter.skew import SkewTable


class Attention(Protocol):
    """One layer's attention."""

    def time(self, batches: Iterable[StepBatch]) -> Timings:
        """One entry per batch."""
        ...


@dataclass(frozen=True)
class MixedAttention:
    """From a table of whole batches: (chunk, decodes, tokens before the chunk, context)."""

    table: Operator
    skew: SkewTable | None = None

    def time(self, batches: Iterable[StepBatch]) -> Timings:
        """One entry per batch."""
        found = [self._one(batch) for batch in batches]
        return Timings(np.array([s for s, _ in found]), np.array([c for _, c in found], dtype=bool))

    def _one(self, batch: StepBatch) -> tuple[float, bool]:
        chunk, before = batch.prefill_tokens, _tokens_before(batch)
        seconds, covered = self._at(batch, chunk, before, batch.mean_context)
        if self.skew is None or len(batch.contexts) < 2:
            return seconds, covered
        longest = max(batch.contexts)
        share = self.skew.share(batch, max(before, 0.0))
        at_longest, longest_covered = self._at(batch, chunk, before, longest)
        return seconds + max(share * (at_longest - seconds), 0.0), covered and longest_covered

    def _at(self, batch: StepBatch, chunk: float, before: float, context: float) -> tuple[float, bool]:
        """With all decodes at one context; several short chunks cost less than one long one."""
        decodes = float(len(batch.contexts))
        shapes = np.array([[chunk, decodes, abs(before), context]])
        if before >= 0:
            timing = self.table.time(shapes)
            return float(timing.seconds[0]), bool(timing.covered[0])
        largest = max(tokens for tokens, _ in batch.chunks)
        rows = np.vstack([shapes, [[chunk, decodes, 0.0, context], [largest, decodes, 0.0, context]]])
        timing = self.table.time(rows)
        with_pairs, plain, least = timing.seconds
        return max(float(2 * plain - with_pairs), float(least)), bool(timing.covered.all())


@dataclass(frozen=True)
class SplitAttention:
    """From separate tables of chunks (chunk, tokens before it) and decodes (decodes, context)."""

    prefill: Operator
    decode: Operator

    def time(self, batches: Iterable[StepBatch]) -> Timings:
        """One entry per batch: kernels run one after the other."""
        every = list(batches)
        chunks = self.prefill.time(np.array([_one_chunk(batch) for batch in every]))
        decodes = self.decode.time(
            np.array([(max(len(batch.contexts), 1), batch.mean_context) for batch in every])
        )
        with_chunks = np.array([bool(batch.chunks) for batch in every])
        with_decodes = np.array([bool(batch.contexts) for batch in every])
        return Timings(
            chunks.seconds * with_chunks + decodes.seconds * with_decodes,
            (chunks.covered | ~with_chunks) & (decodes.covered | ~with_decodes),
        )


def _tokens_before(batch: StepBatch) -> float:
    """For all chunks as one: so many that the pairs of tokens are as many. Negative for short chunks."""
    tokens = batch.prefill_tokens
    if not tokens:
        return 0.0
    if len(batch.chunks) == 1:
        return batch.chunks[0][1]
    return sum(chunk * (before + chunk / 2) for chunk, before in batch.chunks) / tokens - tokens / 2


def _one_chunk(batch: StepBatch) -> tuple[float, float]:
    """One chunk with as many pairs among its own tokens, and with tokens before it, as all together."""
    if not batch.chunks:
        return 1.0, 0.0
    chunk = sqrt(sum(tokens * tokens for tokens, _ in batch.chunks))
    return chunk, sum(tokens * before for tokens, before in batch.chunks) / chunk
