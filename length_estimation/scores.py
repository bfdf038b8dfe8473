"""How good quantiles were: point errors, pinball loss, coverage, order, with bootstrap intervals.

The point that an estimator is held to is its median: no other has a smaller expected absolute error.
Intervals resample groups (prompts with all their samples), not rows, which are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt

from length_estimation.quantiles import LEVELS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

MIDDLE: Final = LEVELS.index(0.5)
LOW: Final = LEVELS.index(0.1)
HIGH: Final = LEVELS.index(0.9)
_LEVELS: Final = np.array(LEVELS)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one estimator said of the judged examples."""

    tokens: Floats
    """At LEVELS, shape (examples, levels)."""
    truth: Floats
    """Real tokens, shape (examples,)."""
    groups: Ints
    """Of each example, shape (examples,)."""

    def take(self, rows: Ints) -> Answers:
        """The answers for these examples."""
        return Answers(self.tokens[rows], self.truth[rows], self.groups[rows])


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of merit; tokens unless said."""

    mae: float
    mae_over_mean: float
    r2_log: float
    """Share of the variance of log tokens that the log of the median explains."""
    acc50: float
    """Share of examples whose median is off by at most 50 tokens."""
    acc100: float
    pinball: float
    """Mean over LEVELS."""
    coverage80: float
    """Share of examples between the 0.1 and the 0.9 quantile."""
    kendall_tau: float
    """Rank correlation of medians and lengths; 0 for an estimator that always says the same."""

    @classmethod
    def of(cls, answers: Answers) -> Scores:
        """Score one estimator."""
        truth, tokens = answers.truth, answers.tokens
        said = tokens[:, MIDDLE]
        errors = np.abs(truth - said)
        return cls(
            mae=float(errors.mean()),
            mae_over_mean=float(errors.mean() / truth.mean()),
            r2_log=_r2(np.log(truth), np.log(said)),
            acc50=float((errors <= 50).mean()),
            acc100=float((errors <= 100).mean()),
            pinball=float(pinball_of(answers).mean()),
            coverage80=float(((truth >= tokens[:, LOW]) & (truth <= tokens[:, HIGH])).mean()),
            kendall_tau=_tau(said, truth),
        )


NAMES: Final = tuple(field.name for field in fields(Scores))


def pinball_of(answers: Answers) -> Floats:
    """Pinball loss of each example, mean over LEVELS; shape (examples,)."""
    errors = answers.truth[:, None] - answers.tokens
    losses: Floats = np.maximum(_LEVELS * errors, (_LEVELS - 1) * errors).mean(axis=1)
    return losses


def intervals(answers: Answers, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of each score."""
    found = {name: [] for name in NAMES}  # type: dict[str, list[float]]
    for rows in _resampled(answers.groups, resamples, seed):
        scores = Scores.of(answers.take(rows))
        for name in NAMES:
            found[name].append(getattr(scores, name))
    return {name: _middle(values) for name, values in found.items()}


def gain_interval(one: Answers, other: Answers, resamples: int, seed: int) -> tuple[float, float]:
    """95 % interval of how much smaller the first one's pinball loss is, as a share of the other's."""
    first, second = pinball_of(one), pinball_of(other)
    shares = [
        1 - first[rows].mean() / second[rows].mean() for rows in _resampled(one.groups, resamples, seed)
    ]
    return _middle(shares)


def _resampled(groups: Ints, resamples: int, seed: int) -> list[Ints]:
    """Rows of as many groups, drawn with repetition."""
    random = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    draws = random.integers(0, len(members), (resamples, len(members)))
    return [np.concatenate([members[group] for group in draw]) for draw in draws]


def _middle(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _r2(truth: Floats, said: Floats) -> float:
    spread = float(truth.var())
    return 1 - float(np.mean((truth - said) ** 2)) / spread if spread > 0 else 0.0


def _tau(said: Floats, truth: Floats) -> float:
    from scipy.stats import kendalltau

    if len(said) < 2 or said.min() == said.max() or truth.min() == truth.max():
        return 0.0
    return float(kendalltau(said, truth).statistic)
