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

from block.latency.least_squares import Floats
from vidur_adapter.batch import StepBatch
from vidur_adapter.operator import Flags, Operator, Timings
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
        """One entry per batch; without a table of unevenness, contexts count by their mean alone."""
        every = list(batches)
        before = [_tokens_before(batch) for batch in every]
        at_both = self._at([*every, *every], np.array([*before, *before]), [*_means(every), *_longest(every)])
        (at_mean_s, at_longest_s), covered = np.split(at_both.seconds, 2), np.split(at_both.covered, 2)
        extra_s, measured = self._unevenness(every, before, at_longest_s - at_mean_s)
        return Timings(at_mean_s + extra_s, covered[0] & covered[1], np.where(measured, 0.0, extra_s))

    def _unevenness(
        self, batches: list[StepBatch], before: list[float], way_s: Floats
    ) -> tuple[Floats, Flags]:
        """What it costs of the way to all contexts at the longest, and where that was measured."""
        if self.skew is None:
            return np.zeros(len(batches)), np.ones(len(batches), dtype=bool)
        found = [self.skew.share(*facts) for facts in zip(batches, before, strict=True)]
        shares = np.array([share for share, _ in found])
        return np.maximum(shares * way_s, 0.0), np.array([measured for _, measured in found], dtype=bool)

    def _at(self, batches: list[StepBatch], before: Floats, contexts: list[float]) -> Timings:
        """With all decodes at one context; several short chunks cost less than one long one."""
        chunks, decodes = [each.prefill_tokens for each in batches], [len(each.contexts) for each in batches]
        rows = np.column_stack([chunks, decodes, np.abs(before), contexts])
        timing, short = self.table.time(rows), np.flatnonzero(before < 0)
        if not len(short):
            return timing
        plain, least = rows[short], rows[short]
        plain[:, 2] = least[:, 2] = 0.0
        least[:, 0] = [max(tokens for tokens, _ in batches[place].chunks) for place in short]
        without, at_least = self.table.time(plain), self.table.time(least)
        seconds, covered = timing.seconds.copy(), timing.covered.copy()
        seconds[short] = np.maximum(2 * without.seconds - seconds[short], at_least.seconds)
        covered[short] &= without.covered & at_least.covered
        return Timings.measured(seconds, covered)


@dataclass(frozen=True)
class SplitAttention:
    """From separate tables of chunks (chunk, tokens before it) and decodes (decodes, context).

    Contexts count by their mean: such tables know nothing of unevenness.
    """

    prefill: Operator
    decode: Operator

    def time(self, batches: Iterable[StepBatch]) -> Timings:
        """One entry per batch: kernels run one after the other."""
        every = list(batches)
        chunks = self.prefill.time(np.array([_one_chunk(batch) for batch in every]))
        decodes, at_longest = self._decodes(every, _means(every)), self._decodes(every, _longest(every))
        with_chunks = np.array([bool(batch.chunks) for batch in every])
        with_decodes = np.array([bool(batch.contexts) for batch in every])
        return Timings.measured(
            chunks.seconds * with_chunks + decodes.seconds * with_decodes,
            (chunks.covered | ~with_chunks) & (decodes.covered & at_longest.covered | ~with_decodes),
        )

    def _decodes(self, batches: list[StepBatch], contexts: list[float]) -> Timings:
        counts = [max(len(batch.contexts), 1) for batch in batches]
        return self.decode.time(np.column_stack([counts, contexts]))


def _means(batches: list[StepBatch]) -> list[float]:
    return [batch.mean_context for batch in batches]


def _longest(batches: list[StepBatch]) -> list[float]:
    return [max(batch.contexts, default=0.0) for batch in batches]


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
