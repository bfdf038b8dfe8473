"""Response-length distributions as rows of numbers, evaluated by compiled code one at a time.

Gives the numbers of ``LengthDistribution``, which says what they mean. A row is the index of the last
knot, whether it is a point, the tail's mean, then as many levels, tokens and tokens beyond as the widest
row has knots.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from block.errors import StateError
from block.lengths import LEAST_TAIL_TOKENS, POINT_TAIL_SHARE
from block.simulation.compiled import compiled
from block.simulation.memory import Floats

_LAST: Final = 0
_IS_POINT: Final = 1
_TAIL: Final = 2
_KNOTS: Final = 3


def length_rows(levels: Floats, tokens: Floats) -> Floats:
    """(requests, 3 + 3 x knots) of quantiles ``tokens`` (requests, levels) at ``levels``, which all share.

    Raises StateError for what is no distribution.
    """
    rising = (np.diff(levels) > 0).all() and (np.diff(tokens, axis=1) >= 0).all()
    if (
        not rising
        or not 0 < levels[0] <= levels[-1] < 1
        or not np.isfinite(tokens).all()
        or tokens.min(initial=0.0) < 0
    ):
        raise StateError("quantiles: need rising probabilities within (0, 1) and rising tokens of at least 0")
    knots = len(levels) + 1
    rows = np.empty((len(tokens), _KNOTS + 3 * knots))
    # A first knot at level 0 leaves half the first quantile open.
    levels = np.append(0.0, levels)
    tokens = np.append(0.5 * tokens[:, :1], tokens, axis=1)
    is_point = tokens[:, 1] == tokens[:, -1]
    tail = _tails(levels, tokens, is_point)
    beyond_last = (1 - levels[-1]) * tail[:, None]
    stretches = np.diff(tokens) * (1 - (levels[1:] + levels[:-1]) / 2)
    rows[:, _LAST], rows[:, _IS_POINT], rows[:, _TAIL] = knots - 1, is_point, tail
    rows[:, _KNOTS : _KNOTS + knots] = levels
    rows[:, _KNOTS + knots : _KNOTS + 2 * knots] = tokens
    rows[:, _KNOTS + 2 * knots :] = np.append(
        stretches[:, ::-1].cumsum(axis=1)[:, ::-1] + beyond_last, beyond_last, axis=1
    )
    return rows


def _tails(levels: Floats, tokens: Floats, is_point: Floats) -> Floats:
    """(requests,) means of the exponential tails."""
    tails = POINT_TAIL_SHARE * tokens[:, -1]
    if levels[-1] > 0.5:
        after = int(np.searchsorted(levels, 0.5, side="right"))
        share = (0.5 - levels[after - 1]) / (levels[after] - levels[after - 1])
        median = tokens[:, after - 1] + share * (tokens[:, after] - tokens[:, after - 1])
        spread = (tokens[:, -1] - median) / np.log(0.5 / (1 - levels[-1]))
        tails = np.where(is_point, tails, spread)
    return np.maximum(tails, LEAST_TAIL_TOKENS)


def mean_lengths(rows: Floats) -> Floats:
    """(requests,) expected response tokens of new requests."""
    return np.array([mean_tokens(row, 0) for row in rows])


@compiled
def total_tokens(row: Floats, level: float, generated: int) -> float:
    """Response tokens at ``level``, given that ``generated`` were not the last."""
    width, last = (row.size - _KNOTS) // 3, int(row[_LAST])
    last_tokens = row[_KNOTS + width + last]
    if generated >= last_tokens:
        total = generated - row[_TAIL] * math.log1p(-level)
    elif row[_IS_POINT] > 0:
        total = last_tokens
    else:
        passed = _probability(row, width, last, generated)
        total = _tokens_at(row, width, last, passed + level * (1 - passed))
    return max(total, generated + 1.0)


@compiled
def mean_tokens(row: Floats, generated: int) -> float:
    """Expected response tokens, given that ``generated`` were not the last."""
    width, last = (row.size - _KNOTS) // 3, int(row[_LAST])
    last_tokens, least = row[_KNOTS + width + last], generated + 1.0
    if generated >= last_tokens:
        return least + row[_TAIL] * math.exp(-1 / row[_TAIL])
    if row[_IS_POINT] > 0:
        return max(last_tokens, least)
    surviving = 1 - _probability(row, width, last, generated)
    return least + _tokens_beyond(row, width, last, least) / surviving


@compiled
def _probability(row: Floats, width: int, last: int, tokens: float) -> float:
    """Of at most ``tokens``, which must lie within the quantiles."""
    known = _KNOTS + width
    if tokens < row[known]:
        return 0.0
    return _joined(row, known, _KNOTS, last, tokens)


@compiled
def _tokens_at(row: Floats, width: int, last: int, level: float) -> float:
    last_level, last_tokens = row[_KNOTS + last], row[_KNOTS + width + last]
    if level == last_level:
        return last_tokens
    if level > last_level:
        return last_tokens - row[_TAIL] * math.log((1 - level) / (1 - last_level))
    return _joined(row, _KNOTS, _KNOTS + width, last, level)


@compiled
def _tokens_beyond(row: Floats, width: int, last: int, tokens: float) -> float:
    """How far a response goes beyond ``tokens``, on average over all responses."""
    known, beyond = _KNOTS + width, _KNOTS + 2 * width
    if tokens >= row[known + last]:
        return row[beyond + last] * math.exp((row[known + last] - tokens) / row[_TAIL])
    if tokens < row[known]:
        return row[beyond] + row[known] - tokens
    after = _last_up_to(row, known, last, tokens) + 1
    surviving = 1 - (_probability(row, width, last, tokens) + row[_KNOTS + after]) / 2
    return row[beyond + after] + (row[known + after] - tokens) * surviving


@compiled
def _joined(row: Floats, x: int, y: int, last: int, at: float) -> float:
    """Straight lines between the knots whose abscissae start at ``x`` in the row, and ordinates at ``y``."""
    i = min(_last_up_to(row, x, last, at), last - 1)
    slope = (row[y + i + 1] - row[y + i]) / (row[x + i + 1] - row[x + i])
    return slope * (at - row[x + i]) + row[y + i]


@compiled
def _last_up_to(row: Floats, first: int, last: int, value: float) -> int:
    """Index of the last knot that is no larger than ``value``; 0 when there is none."""
    i = last
    while i > 0 and row[first + i] > value:
        i -= 1
    return i
