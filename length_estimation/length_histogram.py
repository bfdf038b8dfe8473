"""A histogram of response lengths on a logarithmic scale, in a fixed amount of memory.

Responses that were cut at their limit are counted apart and spread over what is longer (Kaplan and
Meier's estimator), so that limits do not pass for lengths. Old responses fade: at the window's size
every count is halved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS: Final = 96
_BINS_PER_DOUBLING: Final = 5
"""A bin is 15 % wide; the last one starts at half a million tokens."""
EDGES: Final[Floats] = 2.0 ** (np.arange(BINS + 1) / _BINS_PER_DOUBLING)
_FULL_AT: Final = 4096.0


class LengthHistogram:
    """Counts of ended and of cut responses, by length."""

    def __init__(self) -> None:
        self._ended: Floats = np.zeros(BINS)
        self._cut: Floats = np.zeros(BINS)
        self._weight = 0.0

    @classmethod
    def sum_of(cls, parts: Iterable[Self]) -> Self:
        """What all of these have counted, together."""
        made = cls()
        for part in parts:
            made._ended += part._ended
            made._cut += part._cut
            made._weight += part._weight
        return made

    @property
    def weight(self) -> float:
        """Responses counted, the faded ones for less."""
        return self._weight

    def add(self, tokens: int, cut: bool) -> None:
        """Count one response."""
        counts = self._cut if cut else self._ended
        counts[_bin(tokens)] += 1.0
        self._weight += 1.0
        if self._weight >= _FULL_AT:
            self._ended *= 0.5
            self._cut *= 0.5
            self._weight *= 0.5

    def shares(self, prior: Floats, prior_weight: float) -> Floats:
        """Probability of each bin, shape (BINS,); ``prior`` counts as that many responses."""
        ended = self._ended + prior_weight * prior
        if not self._cut.any():
            plain: Floats = ended / ended.sum()
            return plain
        # A response cut in a bin was at risk in that bin, and is lost from view after it.
        at_risk: Floats = np.cumsum((ended + self._cut)[::-1])[::-1]
        hazard = np.divide(ended, at_risk, out=np.zeros(BINS), where=at_risk > 0)
        survival = np.cumprod(1.0 - hazard)
        shares = np.asarray(-np.diff(survival, prepend=1.0), dtype=np.float64)
        shares[-1] += survival[-1]
        return shares


def quantiles_of(shares: Floats, levels: Floats) -> Floats:
    """Tokens at ``levels``, same shape; on a logarithmic scale within a bin."""
    reached = np.concatenate(([0.0], np.cumsum(shares)))
    position = np.interp(levels, reached / reached[-1], np.arange(BINS + 1))
    tokens: Floats = 2.0 ** (position / _BINS_PER_DOUBLING)
    return tokens


def log_normal_shares(median: float, sigma: float) -> Floats:
    """Probabilities of the bins under a log-normal distribution; shape (BINS,)."""
    reached = [_normal((math.log(edge) - math.log(median)) / sigma) for edge in EDGES]
    shares = np.diff(np.array(reached))
    normal: Floats = shares / shares.sum()
    return normal


def _bin(tokens: int) -> int:
    return min(int(math.log2(max(tokens, 1)) * _BINS_PER_DOUBLING + 1e-9), BINS - 1)


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))
