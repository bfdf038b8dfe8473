"""What unequal contexts cost beyond their mean: measured shares of the way to the longest context.

LLMServingSim's ``skew_fit.csv``: five bins (chunk, decodes, share of long ones, longest context, tokens
before the chunk) -> the share alpha in  seconds = mean + alpha * (all at the longest - mean).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from block.errors import PackError
from vidur_adapter.batch import StepBatch
from vidur_adapter.table_file import TableFile

_BINS = ("n_label", "skew_rate_label", "kv_big_label", "kp_label")
_BOUND = re.compile(r"^[a-zA-Z]+(<=|>|=)(\d+)(k|%)?$")
_UNITS = {None: 1.0, "k": 1024.0, "%": 0.01}


@dataclass(frozen=True)
class SkewTable:
    """Shares by bins; bins never measured get the mean over all that were, by their samples, and say so."""

    shares: dict[tuple[float, ...], float]
    bounds: tuple[tuple[float, ...], ...]
    """Per axis, the bins' upper ends, rising; the first axis holds measured chunks."""
    usual: float
    factor: float = 1.0
    """On all shares."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises PackError that names the file and what is wrong in it."""
        table = TableFile.load(path, ("pc", *_BINS, "alpha", "n_samples"))
        columns = [table.numbers("pc"), *(_bounds(path, table.texts(name)) for name in _BINS)]
        shares, weights = table.numbers("alpha"), table.numbers("n_samples")
        keys = zip(*(column.tolist() for column in columns), strict=True)
        return cls(
            dict(zip(keys, shares.tolist(), strict=True)),
            tuple(tuple(np.unique(column).tolist()) for column in columns),
            float(np.average(shares, weights=weights)),
        )

    def share(self, batch: StepBatch, before: float) -> tuple[float, bool]:
        """For a batch, and whether its bin was measured; ``before``: tokens before its chunk, if positive."""
        longest, shortest = max(batch.contexts, default=0.0), min(batch.contexts, default=0.0)
        if longest <= shortest:  # one decode, none, or all alike
            return 0.0, True
        long_share = (batch.mean_context - shortest) / (longest - shortest)
        asked = (len(batch.contexts), long_share, longest, max(before, 0.0))
        chunks, *bins = self.bounds
        tokens = batch.prefill_tokens
        chunk = min(chunks, key=lambda measured: abs(measured - tokens))
        key = tuple(
            ends[min(bisect_left(ends, value), len(ends) - 1)]
            for ends, value in zip(bins, asked, strict=True)
        )
        share = self.shares.get((chunk, *key))
        within = all(value <= ends[-1] for ends, value in zip(bins, asked, strict=True))
        return self.factor * (self.usual if share is None else share), share is not None and within


def _bounds(path: Path, labels: list[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Upper ends: ``n<=128``, ``kvB<=4k``, ``sr<=5%``, ``kp=0``; open ones (``n>256``) have none."""
    known = {}
    for label in set(labels):
        found = _BOUND.match(label)
        if found is None:
            raise PackError(f"{path}: bin {label!r}: not understood; such as n<=128, sr<=5%, kvB>16k, kp=0")
        sign, digits, unit = found.groups()
        known[label] = float("inf") if sign == ">" else float(digits) * _UNITS[unit]
    return np.array([known[label] for label in labels])
