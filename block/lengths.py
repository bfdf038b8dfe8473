"""Response lengths as distributions: what is left of one, given what has been generated already.

A distribution is its quantiles, joined by straight lines. Beyond the last one it goes on as an
exponential tail through the median and the last quantile, so that a response that has outlived every
expectation still has a remaining length. Knows nothing of engines.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from block.errors import StateError

Floats = npt.NDArray[np.float64]

POINT_TAIL_SHARE = 0.25
"""A point that was outlived says nothing of its spread: the tail's mean is this share of it.

About what estimators err by (the paper's: 24 % of the mean length). Whoever knows more gives quantiles, whose
own tail is taken.
"""
LEAST_TAIL_TOKENS = 4.0


@dataclass(frozen=True)
class LengthDistribution:
    """``quantiles``: (probability, tokens), both rising, probabilities within (0, 1)."""

    quantiles: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        levels = [level for level, _ in self.quantiles]
        tokens = [value for _, value in self.quantiles]
        finite = all(map(math.isfinite, (*levels, *tokens)))
        if not levels or not finite or not levels[0] > 0 or not levels[-1] < 1 or tokens[0] < 0:
            raise StateError("quantiles: need probabilities within (0, 1) and tokens of at least 0")
        if levels != sorted(set(levels)) or tokens != sorted(tokens):
            raise StateError("quantiles: probabilities and tokens must rise")

    @staticmethod
    @lru_cache(maxsize=4096)
    def point(tokens: float) -> LengthDistribution:
        """All weight on one length. Few are named again and again, so what follows from them is kept."""
        return LengthDistribution(((0.5, tokens),))

    @cached_property
    def is_point(self) -> bool:
        """Whether there is no spread at all."""
        return self.quantiles[0][1] == self.quantiles[-1][1]

    def totals(self, levels: Floats, generated: int) -> Floats:
        """Response tokens at ``levels`` (each within (0, 1)), given that ``generated`` were not the last.

        Same shape as ``levels``; every value exceeds ``generated``.
        """
        if generated >= self.quantiles[-1][1]:
            # An exponential tail forgets how long it has lasted.
            totals = generated - self.tail_tokens * np.log1p(-levels)
        elif self.is_point:
            totals = np.full_like(levels, self.quantiles[0][1])
        else:
            passed = self._probability(generated)
            totals = self._tokens(passed + levels * (1 - passed))
        return np.maximum(totals, generated + 1)

    def mean(self, generated: int = 0) -> float:
        """Expected response tokens, given that ``generated`` were not the last; more than ``generated``."""
        least, last = generated + 1.0, self.quantiles[-1][1]
        if generated >= last:
            return least + self.tail_tokens * math.exp(-1 / self.tail_tokens)
        if self.is_point:
            return max(last, least)
        return least + self._tokens_beyond(least) / (1 - self._probability(generated))

    @cached_property
    def knots(self) -> tuple[Floats, Floats]:
        """Levels and tokens, with a first knot at level 0 that leaves half the first quantile open."""
        levels, tokens = zip((0.0, 0.5 * self.quantiles[0][1]), *self.quantiles, strict=True)
        return np.array(levels), np.array(tokens)

    @cached_property
    def tail_tokens(self) -> float:
        """Mean of the exponential tail."""
        levels, tokens = self.knots
        if self.is_point or levels[-1] <= 0.5:
            return max(LEAST_TAIL_TOKENS, POINT_TAIL_SHARE * float(tokens[-1]))
        median = float(np.interp(0.5, levels, tokens))
        return max(LEAST_TAIL_TOKENS, float(tokens[-1] - median) / math.log(0.5 / (1 - float(levels[-1]))))

    @cached_property
    def tokens_beyond(self) -> Floats:
        """(knots,): how far a response goes beyond each knot, on average over all responses."""
        levels, tokens = self.knots
        tail = (1 - levels[-1]) * self.tail_tokens
        stretches = np.diff(tokens) * (1 - (levels[1:] + levels[:-1]) / 2)
        return np.append(stretches[::-1].cumsum()[::-1] + tail, tail)

    def _tokens_beyond(self, tokens: float) -> float:
        """The same for any number of tokens: the integral of the survival function from there on."""
        levels, known = self.knots
        if tokens >= known[-1]:
            return float(self.tokens_beyond[-1]) * math.exp((known[-1] - tokens) / self.tail_tokens)
        if tokens < known[0]:
            return float(self.tokens_beyond[0] + known[0] - tokens)
        after = int(np.searchsorted(known, tokens, side="right"))
        surviving = 1 - (self._probability(tokens) + levels[after]) / 2
        return float(self.tokens_beyond[after] + (known[after] - tokens) * surviving)

    def _tokens(self, levels: Floats) -> Floats:
        known, tokens = self.knots
        beyond = np.maximum(levels, known[-1])
        tail = tokens[-1] - self.tail_tokens * np.log((1 - beyond) / (1 - known[-1]))
        return np.where(levels <= known[-1], np.interp(levels, known, tokens), tail)

    def _probability(self, tokens: float) -> float:
        """Probability of at most ``tokens``, which must lie within the quantiles."""
        levels, known = self.knots
        return float(np.interp(tokens, known, levels)) if tokens >= known[0] else 0.0


def scenario_levels(request_id: str, scenarios: int) -> Floats:
    """Levels of one request's length in each scenario: all strata once, in an order of its own.

    The order depends on the id alone, so a request has the same lengths wherever it is asked about.
    """
    levels: Floats = scenario_levels_of([request_id], scenarios)[0]
    return levels


def scenario_levels_of(request_ids: Iterable[str], scenarios: int) -> Floats:
    """(requests, scenarios): ``scenario_levels`` of each."""
    digests = np.array([zlib.crc32(name.encode()) for name in request_ids], np.int64)
    coprime = [step for step in range(1, scenarios + 1) if math.gcd(step, scenarios) == 1]
    steps = np.array(coprime)[digests // scenarios % len(coprime)]
    strata = (digests[:, None] + steps[:, None] * np.arange(scenarios)) % scenarios
    levels: Floats = (strata + 0.5) / scenarios
    return levels
