"""Judges estimators on examples they have not seen.

The examples are split into parts that share no prompt and no conversation. Each part is judged by
estimators trained on all others, in a random order, as requests that complete one after another: those
that learn online learn from each after it has been judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from msgspec import structs

from block.errors import PackError
from length_estimation.contenders import BASELINES, CONTENDERS, Contender, answers_of, field
from length_estimation.cut_responses import limits_of
from length_estimation.dataset import UNLIMITED, Example
from length_estimation.scores import Answers, Ints, Scores, gain_interval, gain_of, intervals
from length_estimation.split import folds_of, groups_of


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How to judge."""

    names: tuple[str, ...] = tuple(CONTENDERS)
    folds: int = 5
    """Parts."""
    rounds: int | None = None
    """Parts that are judged; None judges all."""
    resamples: int = 200
    """Of the bootstrap; 0 leaves the intervals out."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of it."""

    answers: Mapping[str, Answers]
    scores: Mapping[str, Scores]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    best: str
    """Least pinball loss."""
    gain: float
    """How much less pinball loss the best has than the best baseline, as a share of it."""
    gain_interval: tuple[float, float] | None

    @property
    def rows(self) -> int:
        """Examples that were judged."""
        return len(next(iter(self.answers.values())).truth)

    @property
    def cut(self) -> int:
        """Those among them whose response was cut: only a bound of its length is known."""
        return int(next(iter(self.answers.values())).cut.sum())

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        estimators = {
            name: asdict(scores) | ({"intervals95": self.intervals[name]} if self.intervals else {})
            for name, scores in self.scores.items()
        }
        gain = {"over": self.best_baseline, "pinball": self.gain, "interval95": self.gain_interval}
        rows = {"rows": self.rows, "cut": self.cut}
        return {**rows, "estimators": estimators, "best": self.best, "gain": gain}

    @property
    def best_baseline(self) -> str | None:
        """Of the baselines, the one with the least pinball loss; None if none was judged."""
        return _least(self.scores, [name for name in BASELINES if name in self.scores])


def evaluate(
    examples: Sequence[Example],
    options: EvaluationOptions,
    table: Mapping[str, Contender] = CONTENDERS,
    on_round: Callable[[int, int], None] = lambda _done, _all: None,
) -> Evaluation:
    """Judge; ``on_round`` hears how many parts are done. Raises PackError for data that cannot be split."""
    unknown = [name for name in options.names if name not in table]
    if unknown:
        raise PackError(f"estimator {unknown[0]!r}: unknown here; known: {', '.join(table)}")
    groups = groups_of([example.keys for example in examples])
    folds = folds_of(groups, options.folds, options.seed)
    rounds = options.rounds or options.folds
    parts: dict[str, list[Answers]] = {}
    for part in range(rounds):
        on_round(part, rounds)
        rows = np.random.default_rng(options.seed + part).permutation(np.flatnonzero(folds == part))
        for name, answers in _judge(examples, groups, rows, np.flatnonzero(folds != part), options, table):
            parts.setdefault(name, []).append(answers)
    on_round(rounds, rounds)
    return _evaluation({name: Answers.joined(said) for name, said in parts.items()}, options)


def _judge(
    examples: Sequence[Example],
    groups: Ints,
    judged: Ints,
    others: Ints,
    options: EvaluationOptions,
    table: Mapping[str, Contender],
) -> list[tuple[str, Answers]]:
    """By estimator what it said of the judged ones."""
    limit = _limit([examples[i] for i in others])
    training = [_limited(examples[i], limit) for i in others]
    exam = [_limited(examples[i], limit) for i in judged]
    limits = limits_of([examples[i] for i in judged])
    estimators = field(options.names, training, options.seed, table)
    return [
        (name, answers_of(estimator, exam, groups[judged]).within(limits))
        for name, estimator in estimators.items()
    ]


def _limit(examples: Sequence[Example]) -> int:
    """What clients would set for such responses: the power of two that admits the longest."""
    longest = max(example.output_tokens for example in examples)
    return 1 << max(longest - 1, 1).bit_length()


def _limited(example: Example, limit: int) -> Example:
    if example.request.max_tokens < UNLIMITED:
        return example
    return replace(example, request=structs.replace(example.request, max_tokens=limit))


def _evaluation(answers: Mapping[str, Answers], options: EvaluationOptions) -> Evaluation:
    scores = {name: Scores.of(said) for name, said in answers.items()}
    best = _least(scores, list(scores)) or ""
    baseline = _least(scores, [name for name in BASELINES if name in scores]) or best
    resamples, seed = options.resamples, options.seed
    spans = {name: intervals(said, resamples, seed) for name, said in answers.items()} if resamples else {}
    return Evaluation(
        answers=answers,
        scores=scores,
        intervals=spans,
        best=best,
        gain=gain_of(scores[best].pinball, scores[baseline].pinball),
        gain_interval=gain_interval(answers[best], answers[baseline], resamples, seed) if resamples else None,
    )


def _least(scores: Mapping[str, Scores], names: Sequence[str]) -> str | None:
    return min(names, key=lambda name: scores[name].pinball) if names else None
