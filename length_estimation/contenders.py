"""What an evaluation compares: the baselines, the trained estimators, and each of them recalibrated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from length_estimation.conformal import Floats, median_of
from length_estimation.cut_responses import completion_of, cut_flags, history_of
from length_estimation.dataset import Example
from length_estimation.estimator import (
    Completion,
    ConstantEstimator,
    Estimator,
    Learner,
    LengthEstimate,
    MaxTokensEstimator,
)
from length_estimation.features import FeaturesEstimator
from length_estimation.quantiles import LEVELS
from length_estimation.recalibration import Recalibrated
from length_estimation.scores import Answers, Ints
from length_estimation.split import groups_of

RECALIBRATED: Final = "+recalibrated"
BASELINES: Final = ("constant", "constant+recalibrated", "max_tokens", "history")


@dataclass(frozen=True, slots=True)
class Contender:
    """How an estimator is made from training examples."""

    make: Callable[[Sequence[Example], int], Estimator]
    """Examples and seed."""
    recalibrate: bool = False
    """Whether it is also judged with recalibration around it."""
    warm: bool = False
    """Whether recalibration learns from the training examples: fair where nothing was fitted to them."""


def _constant(examples: Sequence[Example], _seed: int) -> Estimator:
    """The median, of cut responses as far as it is known."""
    tokens = np.array([example.output_tokens for example in examples], dtype=np.float64)
    cut = cut_flags(examples)
    return ConstantEstimator(int(median_of(tokens, cut)))


def _features(examples: Sequence[Example], seed: int) -> Estimator:
    from length_estimation.features_training import FeaturesOptions, train_features

    groups = groups_of([example.keys for example in examples])
    return FeaturesEstimator(train_features(examples, groups, FeaturesOptions(seed=seed)), "evaluated")


CONTENDERS: Final[Mapping[str, Contender]] = {
    "constant": Contender(_constant, recalibrate=True, warm=True),
    "max_tokens": Contender(lambda _examples, _seed: MaxTokensEstimator()),
    "history": Contender(history_of),
    "features": Contender(_features, recalibrate=True),
}


def field(
    names: Sequence[str], examples: Sequence[Example], seed: int, table: Mapping[str, Contender]
) -> dict[str, Estimator]:
    """Estimators by name, made from these examples, the recalibrated ones behind their own."""
    made: dict[str, Estimator] = {}
    for name in names:
        contender = table[name]
        made[name] = contender.make(examples, seed)
        if contender.recalibrate:
            recalibrated = Recalibrated(made[name])
            for example in _shuffled(examples, seed) if contender.warm else ():
                recalibrated.learn(completion_of(example, recalibrated))
            made[f"{name}{RECALIBRATED}"] = recalibrated
    return made


def follow(estimator: Estimator, examples: Sequence[Example]) -> list[LengthEstimate]:
    """What is said of each example, in turn; each is learned from only after it has been judged."""
    said = []
    for example in examples:
        estimate = estimator.estimate(example.request)
        said.append(estimate)
        if isinstance(estimator, Learner):
            estimator.learn(Completion(example.request, estimate, example.output_tokens, example.cut))
    return said


def answers_of(estimator: Estimator, examples: Sequence[Example], groups: Ints) -> Answers:
    """The same, to be scored; ``groups`` of the examples, shape (examples,)."""
    said = follow(estimator, examples)
    tokens = _table([tuple(tokens for _, tokens in estimate.quantiles) for estimate in said])
    return Answers(
        tokens=tokens,
        unbounded=np.maximum(_table([estimate.unbounded for estimate in said]), 1.0),
        truth=np.array([example.output_tokens for example in examples], dtype=np.float64),
        cut=cut_flags(examples),
        groups=groups,
    )


def _table(said: list[tuple[float, ...]]) -> Floats:
    """Shape (examples, levels); a point is the same at every level."""
    return np.array([tokens if len(tokens) > 1 else tokens * len(LEVELS) for tokens in said])


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    return [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))]
