"""What an evaluation compares: the baselines, the trained estimators, and each of them recalibrated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import structs

from length_estimation.conformal import median_of
from length_estimation.cut_responses import completion_of, cut_flags, history_of
from length_estimation.dataset import UNLIMITED, Example
from length_estimation.estimator import (
    Completion,
    ConstantEstimator,
    EstimationRequest,
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


def _history(examples: Sequence[Example], seed: int) -> Estimator:
    return history_of(examples, 256, seed)


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


def answers_of(estimator: Estimator, examples: Sequence[Example], groups: Ints) -> Answers:
    """What is said of each example, in turn; each is learned from only after it has been judged.

    ``groups`` of the examples, shape (examples,).
    """
    tokens, unbounded = [], []
    for example in examples:
        estimate = estimator.estimate(example.request)
        tokens.append(_tokens(estimate))
        # Of a response that ended, no quantile beyond its limit is of interest.
        unbounded.append(_tokens(estimator.estimate(_free(example.request))) if example.cut else tokens[-1])
        if isinstance(estimator, Learner):
            estimator.learn(Completion(example.request, estimate, example.output_tokens, example.cut))
    return Answers(
        tokens=np.array(tokens),
        unbounded=np.array(unbounded),
        truth=np.array([example.output_tokens for example in examples], dtype=np.float64),
        cut=cut_flags(examples),
        groups=groups,
    )


def _tokens(estimate: LengthEstimate) -> tuple[float, ...]:
    """By level; a point is the same at every one."""
    tokens = tuple(tokens for _, tokens in estimate.quantiles)
    return tokens if len(tokens) > 1 else tokens * len(LEVELS)


def _free(request: EstimationRequest) -> EstimationRequest:
    return structs.replace(request, max_tokens=UNLIMITED)


def _shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    return [examples[i] for i in np.random.default_rng(seed).permutation(len(examples))]
