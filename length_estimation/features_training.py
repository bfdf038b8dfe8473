"""Trains ``features`` models with scikit-learn, which is loaded here and nowhere else.

One part of the prompts is held out: it says when each quantile's boosting has to stop, and how far the
quantiles must be shifted to cover there what they promise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from block.errors import PackError
from length_estimation.conformal import shifts_for
from length_estimation.cut_responses import Lengths, cut_flags
from length_estimation.dataset import Example, require_prompts
from length_estimation.features import FeaturesModel
from length_estimation.forest import Forest
from length_estimation.lexicon import BUCKETS, hashed_words, words_of
from length_estimation.prompt_text import read_prompt
from length_estimation.quantiles import LEVELS
from length_estimation.split import folds_of, held_out

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

LEAST_EXAMPLES: Final = 50
_INNER_FOLDS: Final = 4
_ALPHAS: Final = (0.5, 2.0, 8.0, 32.0)
"""Penalties of the linear model that are tried."""
_MODEL_COLUMNS: Final = 32


@dataclass(frozen=True, slots=True)
class FeaturesOptions:
    """Of the boosting; the rest follows from the data."""

    iterations: int = 150
    learning_rate: float = 0.06
    leaves: int = 8
    smallest_leaf: int = 15
    seed: int = 0


def train_features(
    examples: Sequence[Example],
    groups: Ints,
    options: FeaturesOptions,
    on_step: Callable[[str, float], None] = lambda _what, _share: None,
) -> FeaturesModel:
    """Fit a model; ``on_step`` hears what is being done and the share that is done.

    Raises PackError if there are too few examples to learn from.
    """
    from threadpoolctl import threadpool_limits

    if len(examples) < LEAST_EXAMPLES:
        raise PackError(f"{len(examples)} examples are too few to train on; {LEAST_EXAMPLES} at least")
    require_prompts(examples)
    kept_back = held_out(groups, options.seed)
    lengths = Lengths.completed(examples, options.seed)
    with threadpool_limits(1):  # small data: threads would only wait for one another
        on_step("words", 0.0)
        words = _WordModel(examples, groups, lengths, kept_back, options.seed)
        blank = _blank(examples, words)
        rows = np.array([blank.row(example.request) for example in examples])
        rows[:, -1] = words.honest
        boosting = _Boosting(rows, lengths, kept_back, options)
        outputs = []
        for i, level in enumerate(LEVELS):
            on_step(f"quantile {level}", (i + 1) / (len(LEVELS) + 1))
            outputs.append(boosting.fit(level))
    held = [examples[row] for row in np.flatnonzero(kept_back)]
    return replace(blank, forest=_calibrated(Forest.compiled(outputs), rows[kept_back], held))


class _WordModel:
    """Ridge regression of log tokens on hashed words."""

    def __init__(
        self, examples: Sequence[Example], groups: Ints, lengths: Lengths, kept_back: Flags, seed: int
    ) -> None:
        bags = _bags(examples)
        # Held-out rows have fold -1, so that no model that answers for others has seen them.
        folds = np.where(kept_back, -1, folds_of(groups, _INNER_FOLDS, seed + 1))
        taught = lengths.of(~kept_back)
        answers = {alpha: self._honest_answers(alpha, bags, lengths, folds) for alpha in _ALPHAS}
        errors = {alpha: _squares(answers[alpha], taught) for alpha in _ALPHAS}
        self.alpha = min(errors, key=lambda alpha: errors[alpha])
        final = _ridge(self.alpha, bags, taught)
        self.weights = np.asarray(final.coef_, dtype=np.float32)
        self.intercept = float(final.intercept_)
        self.honest = answers[self.alpha]
        """Answers for rows that the answering model has not seen, shape (examples,)."""
        self.honest[kept_back] = final.predict(bags[kept_back])

    def _honest_answers(self, alpha: float, bags: Any, lengths: Lengths, folds: Ints) -> Floats:
        answers = np.zeros(len(folds))
        for fold in range(_INNER_FOLDS):
            fitted = _ridge(alpha, bags, lengths.of((folds >= 0) & (folds != fold)))
            if (folds == fold).any():
                answers[folds == fold] = fitted.predict(bags[folds == fold])
        return answers


class _Boosting:
    """Boosted trees for one quantile after another, on the same rows."""

    def __init__(self, rows: Floats, lengths: Lengths, kept_back: Flags, options: FeaturesOptions) -> None:
        self._taught, self._judge = lengths.of(~kept_back), lengths.of(kept_back)
        self._rows, self._judged = rows[self._taught.example], rows[self._judge.example]
        self._options = options

    def fit(self, level: float) -> tuple[float, list[Any]]:
        """Base and the trees up to the best number of them."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        options = self._options
        trees: Any = HistGradientBoostingRegressor(
            loss="quantile",
            quantile=level,
            max_iter=options.iterations,
            learning_rate=options.learning_rate,
            max_leaf_nodes=options.leaves,
            max_depth=5,
            min_samples_leaf=options.smallest_leaf,
            l2_regularization=1.0,
            max_features=0.5,
            early_stopping=False,
            random_state=options.seed,
        ).fit(self._rows, self._taught.log_tokens, sample_weight=self._taught.weight)
        losses = [_pinball(said, self._judge, level) for said in trees.staged_predict(self._judged)]
        best = int(np.argmin(losses)) + 1
        # Public attributes do not give the trees away; their layout is checked by comparing answers.
        kept = [stage[0].nodes for stage in trees._predictors]
        base = float(np.ravel(trees._baseline_prediction)[0])
        _check(Forest.compiled([(base, kept)]), trees, self._judged)
        return base, kept[:best]


def _check(forest: Forest, trees: Any, rows: Floats) -> None:
    for row, said in zip(rows[:20], trees.predict(rows[:20]), strict=True):
        if abs(forest.predict(row)[0] - said) > 1e-9:
            raise PackError("scikit-learn's trees are laid out otherwise than in the supported version (1.9)")


def _calibrated(forest: Forest, rows: Floats, examples: Sequence[Example]) -> Forest:
    """The same with its outputs shifted to cover as they say on held-out rows, the examples'."""
    said = np.sort([forest.predict(row) for row in rows], axis=1)
    shifts = shifts_for(Lengths.as_seen(examples).log_tokens[:, None] - said, cut_flags(examples), LEVELS)
    return replace(forest, base=forest.base + shifts)


def _blank(examples: Sequence[Example], words: _WordModel) -> FeaturesModel:
    """A model that can make rows, without trees."""
    names, counts = np.unique([example.request.model for example in examples], return_counts=True)
    common = [str(names[i]) for i in np.argsort(-counts, kind="stable")[:_MODEL_COLUMNS]]
    empty = np.zeros(0, dtype=np.int32)
    none = Forest(empty, np.zeros(0), empty, np.zeros(0), empty, empty, np.zeros(0), 0)
    return FeaturesModel(words.weights, words.intercept, tuple(sorted(common)), none)


def _bags(examples: Sequence[Example]) -> Any:
    """Hashed words as a sparse matrix, shape (examples, BUCKETS)."""
    from scipy.sparse import csr_matrix

    starts, columns, values = [0], [], []
    for example in examples:
        bag = hashed_words(words_of(read_prompt(example.request.prompt_json)), example.request.model)
        columns += bag
        values += [len(bag) ** -0.5] * len(bag)
        starts.append(len(columns))
    return csr_matrix((values, columns, starts), shape=(len(examples), BUCKETS))


def _ridge(alpha: float, bags: Any, taught: Lengths) -> Any:
    from sklearn.linear_model import Ridge

    ridge = Ridge(alpha=alpha, solver="sparse_cg", tol=1e-3)
    return ridge.fit(bags[taught.example], taught.log_tokens, sample_weight=taught.weight)


def _squares(said: Floats, lengths: Lengths) -> float:
    """Mean squared error of what is said of each example."""
    errors = said[lengths.example] - lengths.log_tokens
    return float(np.average(errors**2, weights=lengths.weight))


def _pinball(said: Floats, lengths: Lengths, level: float) -> float:
    """Of what is said of each length."""
    errors = lengths.log_tokens - said
    return float(np.average(np.maximum(level * errors, (level - 1) * errors), weights=lengths.weight))
