"""What an evaluation compares: the baselines, the trained estimators, and each of them recalibrated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from length_estimation.dataset import Example
from length_estimation.estimator import Completion, ConstantEstimator, Estimator, Learner, MaxTokensEstimator
from length_estimation.features import FeaturesEstimator
from length_estimation.history import HistoryEstimator
from length_estimation.recalibration import Recalibrated
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
    return ConstantEstimator(int(np.median([example.output_tokens for example in examples])))


def _history(examples: Sequence[Example], seed: int) -> Estimator:
    history = HistoryEstimator(256)
    for i in np.random.default_rng(seed).permutation(len(examples)):
        example = examples[i]
        history.learn(completion_of(example, history))
    return history


def _features(examples: Sequence[Example], seed: int) -> Estimator:
    from length_estimation.features_training import FeaturesOptions, train_features

    groups = groups_of([example.keys for example in examples])
    return FeaturesEstimator(train_features(examples, groups, FeaturesOptions(seed=seed)), "evaluated")


CONTENDERS: Final[Mapping[str, Contender]] = {
    "constant": Contender(_constant, recalibrate=True, warm=True),
    "max_tokens": Contender(lambda _examples, _seed: MaxTokensEstimator()),
    "history": Contender(_history),
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


def follow(estimator: Estimator, examples: Sequence[Example]) -> list[tuple[float, ...]]:
    """Quantiles said of each example, in turn; each is learned from only after it has been judged."""
    said = []
    for example in examples:
        estimate = estimator.estimate(example.request)
        said.append(tuple(tokens for _, tokens in estimate.quantiles))
        if isinstance(estimator, Learner):
            estimator.learn(Completion(example.request, estimate, example.output_tokens, example.cut))
    return said


def completion_of(example: Example, estimator: Estimator) -> Completion:
    """The example as a request that is over."""
    estimate = estimator.estimate(example.request)
    return Completion(example.request, estimate, example.output_tokens, example.cut)


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    return [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))]
