"""How good quantiles were: point errors, pinball loss, coverage, order, with bootstrap intervals.

The point that an estimator is held to is its median: no other has a smaller expected absolute error. Of a
response that was cut at its limit nothing counts as an error but what is known to be one: a quantile
below the bound, by as much as it lies below (Powell, "Censored regression quantiles", 1986). Intervals
resample groups (prompts with all their samples), not rows, which are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from length_estimation.conformal import Flags, Floats
from length_estimation.quantiles import LEVELS

Ints = npt.NDArray[np.intp]

MIDDLE: Final = LEVELS.index(0.5)
LOW: Final = LEVELS.index(0.1)
HIGH: Final = LEVELS.index(0.9)
_LEVELS: Final = np.array(LEVELS)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one estimator said of the judged examples."""

    tokens: Floats
    """At LEVELS, none beyond the request's limit; shape (examples, levels)."""
    unbounded: Floats
    """The same without the limits, for those that were cut."""
    truth: Floats
    """Real tokens, shape (examples,)."""
    cut: Flags
    """Whose response would have gone on, shape (examples,)."""
    groups: Ints
    """Of each example, shape (examples,)."""

    def take(self, rows: Ints | Flags) -> Answers:
        """The answers for these examples."""
        return Answers(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """One after another."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def within(self, limits: Floats) -> Answers:
        """The same, with no quantile beyond these limits, shape (examples,)."""
        return replace(self, tokens=np.minimum(self.tokens, limits[:, None]))

    @property
    def errors(self) -> Floats:
        """Real less said, as far as it is known, shape (examples, levels)."""
        errors = self.truth[:, None] - self.tokens
        return np.where(self.cut[:, None], np.maximum(errors, 0.0), errors)

    def shares_reached(self, *, ties: bool = True) -> Floats:
        """Share of responses at or (without ``ties``) below each quantile, shape (levels,).

        A cut one counts as far as what was said would have it end there, given that it went on beyond its
        bound: in all, quantiles that are right are reached as they say (D-calibration; Haider and others,
        "Effective ways to build and evaluate individual survival distributions", 2020).
        """
        truth = self.truth[:, None]
        reached = np.where(truth <= self.unbounded if ties else truth < self.unbounded, 1.0, 0.0)
        passed = _passed(self.truth[self.cut], self.unbounded[self.cut])[:, None]
        reached[self.cut] = np.maximum(0.0, (_LEVELS - passed) / (1 - passed))
        shares: Floats = reached.mean(axis=0)
        return shares


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures of merit; tokens unless said."""

    mae: float
    mae_over_mean: float
    r2_log: float
    """Share of the variance of log tokens that the log of the median explains; of responses that ended."""
    acc50: float
    """Share of responses that ended whose median is off by at most 50 tokens."""
    acc100: float
    pinball: float
    """Mean over LEVELS."""
    coverage80: float
    """Share of examples between the 0.1 and the 0.9 quantile; see ``Answers.shares_reached`` for cut ones."""
    kendall_tau: float
    """Rank correlation of medians and lengths of responses that ended; 0 where always the same is said."""

    @classmethod
    def of(cls, answers: Answers) -> Scores:
        """Score one estimator."""
        errors = np.abs(answers.errors[:, MIDDLE])
        ended = ~answers.cut
        truth, said = answers.truth[ended], answers.tokens[ended, MIDDLE]
        covered = answers.shares_reached()[HIGH] - answers.shares_reached(ties=False)[LOW]
        return cls(
            mae=float(errors.mean()),
            mae_over_mean=float(errors.mean() / answers.truth.mean()),
            r2_log=_r2(np.log(truth), np.log(said)),
            acc50=_share(errors[ended] <= 50),
            acc100=_share(errors[ended] <= 100),
            pinball=float(pinball_of(answers).mean()),
            coverage80=float(covered),
            kendall_tau=_tau(said, truth),
        )


NAMES: Final = tuple(field.name for field in fields(Scores))


def pinball_of(answers: Answers) -> Floats:
    """Pinball loss of each example, mean over LEVELS; shape (examples,)."""
    errors = answers.errors
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


def gain_of(loss: float, other: float) -> float:
    """How much smaller the first loss is, as a share of the other; nothing is gained where that is 0."""
    return 1 - loss / other if other > 0 else 0.0


def gain_interval(one: Answers, other: Answers, resamples: int, seed: int) -> tuple[float, float]:
    """95 % interval of how much smaller the first one's pinball loss is, as a share of the other's."""
    first, second = pinball_of(one), pinball_of(other)
    drawn = _resampled(one.groups, resamples, seed)
    return _middle([gain_of(float(first[rows].mean()), float(second[rows].mean())) for rows in drawn])


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


def _passed(tokens: Floats, quantiles: Floats) -> Floats:
    """Probability of at most so many, shape (rows,), under quantiles, shape (rows, levels).

    As ``block.lengths`` has it; beyond the last quantile that one's.
    """
    known = np.column_stack((0.5 * quantiles[:, 0], quantiles))
    rows, levels = np.arange(len(tokens)), np.array((0.0, *LEVELS))
    low = np.clip((known <= tokens[:, None]).sum(axis=1) - 1, 0, len(LEVELS) - 1)
    start, end = known[rows, low], known[rows, low + 1]
    way = np.clip((tokens - start) / np.maximum(end - start, 1e-9), 0.0, 1.0)
    passed: Floats = levels[low] + way * (levels[low + 1] - levels[low])
    return passed


def _share(found: Flags) -> float:
    return float(found.mean()) if len(found) else 0.0


def _r2(truth: Floats, said: Floats) -> float:
    spread = float(truth.var()) if len(truth) else 0.0
    return 1 - float(np.mean((truth - said) ** 2)) / spread if spread > 0 else 0.0


def _tau(said: Floats, truth: Floats) -> float:
    from scipy.stats import kendalltau

    if len(said) < 2 or said.min() == said.max() or truth.min() == truth.max():
        return 0.0
    return float(kendalltau(said, truth).statistic)
