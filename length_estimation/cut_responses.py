"""Lengths to train on for responses that were cut at their limit, of which only a bound is known.

Each of them stands for several responses of less weight: what it might have become, given that it went
on, by what ``history`` makes of all the lengths and bounds that there are. After Yang, Narisetty and He,
"A new approach to censored quantile regression estimation", 2018; DESIGN.md, section 9, says what else was
tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from block.lengths import LengthDistribution
from length_estimation.conformal import median_of
from length_estimation.dataset import UNLIMITED, Example
from length_estimation.estimator import Completion, EstimationRequest, Estimator
from length_estimation.history import HistoryEstimator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

_STRATA: Final = 5
"""Lengths that a cut response stands for."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of examples, the cut ones completed; one row for each length."""

    example: Ints
    """Whose length it is, shape (rows,)."""
    log_tokens: Floats
    """Shape (rows,)."""
    weight: Floats | None
    """Shape (rows,); None where all are 1."""

    @classmethod
    def as_seen(cls, examples: Sequence[Example]) -> Self:
        """A row for each example: its length, or its bound."""
        tokens = [example.output_tokens for example in examples]
        return cls(np.arange(len(tokens)), np.log(np.array(tokens, dtype=np.float64)), None)

    @classmethod
    def completed(cls, examples: Sequence[Example], seed: int) -> Self:
        """The same, where each cut one becomes several that go on beyond its bound."""
        seen = cls.as_seen(examples)
        flags = cut_flags(examples)
        if not flags.any():
            return seen
        cut, ended = np.flatnonzero(flags), np.flatnonzero(~flags)
        levels = (np.arange(_STRATA) + 0.5) / _STRATA
        tokens = [length.totals(levels, bound) for length, bound in beliefs(examples, cut, seed)]
        return cls(
            np.concatenate([ended, np.repeat(cut, _STRATA)]),
            np.concatenate([seen.log_tokens[ended], np.log(np.concatenate(tokens))]),
            np.concatenate([np.ones(len(ended)), np.full(len(cut) * _STRATA, 1 / _STRATA)]),
        )

    def of(self, chosen: Flags) -> Self:
        """Of these examples, shape (examples,)."""
        rows = chosen[self.example]
        weight = None if self.weight is None else self.weight[rows]
        return replace(self, example=self.example[rows], log_tokens=self.log_tokens[rows], weight=weight)


def cut_flags(examples: Sequence[Example]) -> Flags:
    """Which of them were cut, shape (examples,)."""
    return np.array([example.cut for example in examples], dtype=np.bool_)


def limits_of(examples: Sequence[Example]) -> Floats:
    """Tokens beyond which nothing that is said can be wrong, shape (examples,).

    That is the request's limit. Where it is not told and others of these were cut, it is taken to be the
    median of their bounds, or as much as the response itself has reached.
    """
    limits = np.array([example.request.max_tokens for example in examples], dtype=np.float64)
    tokens = np.array([example.output_tokens for example in examples], dtype=np.float64)
    untold, cut = limits >= UNLIMITED, cut_flags(examples)
    if not (untold & cut).any():
        return limits
    return np.where(untold, np.maximum(tokens, np.median(tokens[untold & cut])), limits)


def beliefs(examples: Sequence[Example], rows: Ints, seed: int) -> list[tuple[LengthDistribution, int]]:
    """How long the responses in these rows are, by all examples but not their texts; and their bounds."""
    median = median_of(np.array([example.output_tokens for example in examples]), cut_flags(examples))
    history = history_of(examples, int(median), seed)
    return [(_believed(history, examples[row].request), examples[row].output_tokens) for row in rows]


def history_of(examples: Sequence[Example], guess_tokens: int, seed: int) -> HistoryEstimator:
    """What is known of these responses after they have come in random order."""
    history = HistoryEstimator(guess_tokens)
    for row in np.random.default_rng(seed).permutation(len(examples)):
        history.learn(completion_of(examples[row], history))
    return history


def completion_of(example: Example, estimator: Estimator) -> Completion:
    """The example as a request that is over."""
    estimate = estimator.estimate(example.request)
    return Completion(example.request, estimate, example.output_tokens, example.cut)


def _believed(history: HistoryEstimator, request: EstimationRequest) -> LengthDistribution:
    said = history.estimate(request)
    levels = (level for level, _ in said.quantiles)
    return LengthDistribution(tuple(zip(levels, said.unbounded, strict=True)))
