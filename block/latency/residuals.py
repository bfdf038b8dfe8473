"""What recorded steps do around their fitted mean: bias and spread by region of shapes, and their memory.

Shapes fall into cells (kind of batch, tokens by half powers of two, context by powers of two). A cell's
bias is drawn towards that of the wider region it lies in, the more so the fewer steps it has; its spread
is that of the finest region with enough steps. Both are ratios to the fitted mean. Successive ratios
resemble each other where a machine has slow and fast moments: their rank correlation is fitted by one
slowly moving part. Knows nothing of seconds or of vLLM.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, groupby, takewhile
from statistics import NormalDist
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from block.latency.least_squares import Floats
from block.latency.shapes import CONTEXT, DECODES, PRODUCTS, REQUESTS, TOKENS
from block.types import BatchShape

ValueT = TypeVar("ValueT")

Level = tuple[int, ...]
"""A region: () is everything, then (kind,), (kind, tokens), and a cell (kind, tokens, context)."""

_CONTEXT_UNIT = 256.0
_PULL = 8.0
"""Steps that a wider region's bias counts as."""
_ENOUGH = 32
_MOST_KEPT = 512
_FEWEST_COVERED = 3
_LAGS = 64
_PERSISTENCES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
_NOTICEABLE = 0.02


class Cell(NamedTuple):
    """What is known of one region of shapes."""

    bias: float
    """Mean ratio to the fitted mean."""
    spread: list[float]
    """Order statistics of the ratio to bias and fitted mean, equally likely; their mean is 1."""
    covered: bool
    """Whether steps were recorded here, or on both sides."""


@dataclass(frozen=True, slots=True)
class Memory:
    """How ratios follow one another: correlation ``share * persistence**lag``."""

    share: float
    persistence: float


def cell_of(tokens: float, context: float, decodes: float) -> Level:
    """The cell of a shape of at least one token."""
    kind = 0 if decodes == tokens else 1 if decodes else 2
    return kind, int(2.0 * math.log2(tokens)), int(math.log2(1.0 + context / _CONTEXT_UNIT))


def token_counts(most: int) -> Iterator[int]:
    """The fewest tokens of each cell, rising up to ``most``."""
    fewest = (math.ceil(2.0 ** (step / 2.0)) for step in count())
    return (tokens for tokens, _ in groupby(takewhile(lambda tokens: tokens <= most, fewest)))


def contexts_between(fewest: int, most: int) -> Iterator[int]:
    """Rising contexts from ``fewest`` to ``most``: as many in each cell as make it count as covered."""
    cell, begin = 0, 0
    while begin <= most:
        cell, first = cell + 1, max(begin, fewest)
        begin = round(_CONTEXT_UNIT * (2.0**cell - 1.0))
        last = min(begin - 1, most)
        if first <= last:
            yield from np.unique(np.linspace(first, last, _FEWEST_COVERED).astype(np.int64)).tolist()


class Residuals:
    """Ratios of recorded to fitted seconds."""

    def __init__(self, shapes: Floats, ratios: Floats, follows: npt.NDArray[np.bool_]) -> None:
        """``shapes`` as ``shape_array`` makes them; ``follows`` tells whether a row directly follows its
        predecessor.
        """
        cells = [cell_of(*row) for row in zip(*shapes[:, [TOKENS, CONTEXT, DECODES]].T.tolist(), strict=True)]
        self._cells = _rows_by(cells, 3)
        self._bias = self._biases(cells, ratios)
        noise = ratios / np.array([self._bias[cell] for cell in cells])
        self._spreads = {
            level: _order_statistics(noise[rows])
            for depth in range(4)
            for level, rows in _rows_by(cells, depth).items()
            if len(rows) >= _ENOUGH or depth == 0
        }
        # Plain numbers: comparing numpy's costs ten times as much.
        most = shapes[:, [TOKENS, CONTEXT, PRODUCTS, REQUESTS]].max(axis=0).tolist()
        self._most_tokens, self._most_context, self._most_products, self._most_requests = most
        self.memory = _memory(self._scores(noise), follows)

    def cell(self, key: Level) -> Cell:
        """What is known of a cell, be it by its neighbours or by all."""
        return Cell(self._nearest(self._bias, key), self._nearest(self._spreads, key), self._covers(key))

    def within(self, shape: BatchShape) -> bool:
        """Whether nothing of a shape exceeds everything recorded."""
        return bool(
            shape.tokens <= self._most_tokens
            and shape.context_tokens <= self._most_context
            and shape.prefill_context_products <= self._most_products
            and shape.requests <= self._most_requests
        )

    def _biases(self, cells: list[Level], ratios: Floats) -> dict[Level, float]:
        biases: dict[Level, float] = {(): float(ratios.mean())}
        for depth in range(1, 4):
            for level, rows in _rows_by(cells, depth).items():
                wider = biases[level[:-1]]
                biases[level] = float((ratios[rows].sum() + _PULL * wider) / (len(rows) + _PULL))
        return biases

    def _scores(self, noise: Floats) -> Floats:
        """Each row's place among the steps like it, as a standard normal variable."""
        scores, normal = np.zeros(len(noise)), NormalDist()
        for cell, rows in self._cells.items():
            places = np.searchsorted(self._nearest(self._spreads, cell), noise[rows], side="right")
            size = len(self._nearest(self._spreads, cell))
            scores[rows] = [normal.inv_cdf((place + 0.5) / (size + 1.0)) for place in places]
        return scores

    def _covers(self, key: Level) -> bool:
        if len(self._cells.get(key, ())) >= _FEWEST_COVERED:
            return True
        kind, tokens, context = key
        beside = (
            ((kind, tokens + d, context) for d in (-1, 1)),
            ((kind, tokens, context + d) for d in (-1, 1)),
        )
        return any(all(each in self._cells for each in pair) for pair in beside)

    def _nearest(self, known: dict[Level, ValueT], key: Level) -> ValueT:
        return next(known[key[:depth]] for depth in (3, 2, 1, 0) if key[:depth] in known)


def _rows_by(cells: list[Level], depth: int) -> dict[Level, npt.NDArray[np.int64]]:
    found: dict[Level, list[int]] = defaultdict(list)
    for row, cell in enumerate(cells):
        found[cell[:depth]].append(row)
    return {level: np.array(rows) for level, rows in found.items()}


def _order_statistics(noise: Floats) -> list[float]:
    """Sorted, at most ``_MOST_KEPT``: means of neighbours, so that the mean stays; scaled to a mean of 1."""
    groups = np.array_split(np.sort(noise), min(len(noise), _MOST_KEPT))
    means = np.array([group.mean() for group in groups])
    return list((means / means.mean()).tolist())


def _memory(scores: Floats, follows: npt.NDArray[np.bool_]) -> Memory:
    """Least squares over lags 1..64 of the scores' correlation."""
    correlations = _correlations(scores, follows)
    lags = np.arange(1, len(correlations) + 1)
    best, best_error = Memory(0.0, 0.0), float(np.sum(correlations**2))
    for persistence in _PERSISTENCES if len(lags) else ():
        shape = persistence**lags
        share = float(np.clip(shape @ correlations / (shape @ shape), 0.0, 1.0))
        error = float(np.sum((correlations - share * shape) ** 2))
        if error < best_error and share > _NOTICEABLE:
            best, best_error = Memory(share, persistence), error
    return best


def _correlations(scores: Floats, follows: npt.NDArray[np.bool_]) -> Floats:
    """Of pairs some lags apart with nothing missing between."""
    run = np.cumsum(~follows)
    variance = float(np.var(scores)) or 1.0
    centred = scores - scores.mean()
    found = []
    for lag in range(1, min(_LAGS, len(scores) // 4) + 1):
        together = run[lag:] == run[:-lag]
        if np.count_nonzero(together) < _ENOUGH:
            break
        found.append(float(np.mean((centred[lag:] * centred[:-lag])[together])) / variance)
    return np.array(found)
