"""Many response-length distributions at once: one row each, evaluated by whole-array operations.

Gives the numbers of ``LengthDistribution``, which says what they mean. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from block.lengths import Floats, LengthDistribution

Ints = npt.NDArray[np.int64]


class LengthTable:
    """Distributions in the order given. Rows that have fewer knots than others end in infinities."""

    def __init__(self, distributions: Sequence[LengthDistribution]) -> None:
        self._distributions = distributions
        points = [each.is_point for each in distributions]
        self._all_points = all(points)
        self._is_point = _column(points).astype(np.bool_)
        self._last_tokens = _column([each.quantiles[-1][1] for each in distributions])
        self._tail = _column([each.tail_tokens for each in distributions])

    @cached_property
    def _curves(self) -> _Curves:
        """What only rows that are no points are evaluated by."""
        return _Curves(self._distributions, self._last_tokens, self._tail)

    def totals(self, levels: Floats, generated: Ints) -> Floats:
        """(rows, levels) response tokens at ``levels`` (rows, levels), ``generated`` (rows,) not the last."""
        done = generated[:, None].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            # Rows that have outlived their last quantile give no sense here, and are not used.
            passed = self._curves.probability(done)
            within = self._curves.tokens_at(passed + levels * (1 - passed))
            outlived = done - self._tail * np.log1p(-levels)
        totals = self._by_case(done, outlived, within)
        return np.maximum(totals, done + 1)

    def means(self, generated: Ints) -> Floats:
        """(rows,) expected response tokens, given that ``generated`` (rows,) were not the last."""
        done = generated[:, None].astype(np.float64)
        if self._all_points:  # most estimators know no more, and this is a tenth of the work
            outlived = done + 1 + self._tail * np.exp(-1 / self._tail)
            return np.where(done >= self._last_tokens, outlived, np.maximum(self._last_tokens, done + 1))[
                :, 0
            ]
        with np.errstate(divide="ignore", invalid="ignore"):
            surviving = 1 - self._curves.probability(done)
            within = done + 1 + self._curves.tokens_beyond(done + 1) / surviving
            outlived = done + 1 + self._tail * np.exp(-1 / self._tail)
        means: Floats = np.maximum(self._by_case(done, outlived, within), done + 1)[:, 0]
        return means

    def _by_case(self, generated: Floats, outlived: Floats, within: Floats) -> Floats:
        known = np.where(self._is_point, self._last_tokens, within)
        return np.where(generated >= self._last_tokens, outlived, known)


class _Curves:
    """The same distributions joined up: probabilities from tokens and back."""

    def __init__(
        self, distributions: Sequence[LengthDistribution], last_tokens: Floats, tail: Floats
    ) -> None:
        count, width = len(distributions), max((len(each.knots[0]) for each in distributions), default=2)
        self._levels = np.full((count, width), np.inf)
        self._tokens = np.full((count, width), np.inf)
        self._beyond = np.zeros((count, width))
        for row, each in enumerate(distributions):
            knots = len(each.quantiles) + 1
            self._levels[row, :knots], self._tokens[row, :knots] = each.knots
            self._beyond[row, :knots] = each.tokens_beyond
        self._last = _column([len(each.quantiles) for each in distributions]).astype(np.int64)
        self._last_tokens, self._tail = last_tokens, tail
        self._row_starts = width * np.arange(count)[:, None]
        ends = self._row_starts + self._last
        self._last_level, self._last_beyond = (knots.take(ends) for knots in (self._levels, self._beyond))

    def probability(self, tokens: Floats) -> Floats:
        """Probability of at most ``tokens`` (rows, 1); of no meaning beyond the last knot."""
        before = _count_up_to(self._tokens, tokens) - 1
        return np.where(before < 0, 0.0, self._joined(self._tokens, self._levels, tokens, before))

    def tokens_at(self, levels: Floats) -> Floats:
        beyond = np.maximum(levels, self._last_level)
        tail = self._last_tokens - self._tail * np.log((1 - beyond) / (1 - self._last_level))
        before = _count_up_to(self._levels, levels) - 1
        joined = self._joined(self._levels, self._tokens, levels, before)
        at_knot = np.where(levels == self._last_level, self._last_tokens, joined)
        return np.where(levels <= self._last_level, at_knot, tail)

    def tokens_beyond(self, tokens: Floats) -> Floats:
        after = np.minimum(_count_up_to(self._tokens, tokens), self._last)
        place = self._row_starts + after
        at, level, beyond = (knots.take(place) for knots in (self._tokens, self._levels, self._beyond))
        # Before the first knot every response goes on: the level there is 0.
        surviving = np.where(after == 0, 1.0, 1 - (self.probability(tokens) + level) / 2)
        tail = self._last_beyond * np.exp((self._last_tokens - tokens) / self._tail)
        return np.where(tokens >= self._last_tokens, tail, beyond + (at - tokens) * surviving)

    def _joined(self, known: Floats, values: Floats, at: Floats, before: Ints) -> Floats:
        """Straight lines between the knots ``(known, values)``."""
        left = self._row_starts + np.minimum(np.maximum(before, 0), self._last - 1)
        x, y = known.take(left), values.take(left)
        joined: Floats = (values.take(left + 1) - y) / (known.take(left + 1) - x) * (at - x) + y
        return joined


def _count_up_to(knots: Floats, values: Floats) -> Ints:
    """(rows, values): how many of a row's knots are no larger than each of its values."""
    count: Ints = (knots[:, :, None] <= values[:, None, :]).sum(axis=1)
    return count


def _column(values: Sequence[float]) -> Floats:
    return np.array(values, np.float64).reshape(-1, 1)
