"""``features``: lexical features and boosted trees for the quantiles of the logarithm of the length.

A linear model on hashed words gives one number, which joins the other features as a column; the trees
give one output per quantile. Evaluated in plain numpy from arrays; see ``features_training`` for how
they are made.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from block.errors import PackError
from length_estimation.estimator import EstimationRequest, LengthEstimate
from length_estimation.forest import Forest
from length_estimation.lexicon import BUCKETS, COLUMNS, VERSION, hashed_words, numbers_of, words_of
from length_estimation.model_folder import read_card
from length_estimation.prompt_text import read_prompt
from length_estimation.quantiles import LEVELS

Floats = npt.NDArray[np.float64]

KIND: Final = "features"
ARRAYS: Final = "model.npz"
_FOREST: Final = ("feature", "threshold", "children", "value", "roots", "starts", "base")
_LONGEST: Final = math.log(2.0**31)


@dataclass(frozen=True, slots=True)
class FeaturesModel:
    """What training makes."""

    words: npt.NDArray[np.float32]
    """Weight of each bucket of hashed words, shape (BUCKETS,)."""
    intercept: float
    models: tuple[str, ...]
    """Served models that were seen in training; each has a column."""
    forest: Forest
    """Columns: the lexicon's, one per model, the linear model's answer. Outputs: log quantiles."""

    def row(self, request: EstimationRequest) -> Floats:
        """The trees' columns for one request."""
        text = read_prompt(request.prompt_json)
        words = words_of(text)
        row = numbers_of(text, words, request.prompt_tokens, request.temperature)
        row += [float(name == request.model) for name in self.models]
        row.append(self.score(hashed_words(words, request.model)))
        return np.array(row)

    def score(self, buckets: list[int]) -> float:
        """The linear model's log tokens: each bucket weighs the same, and all together are of length 1."""
        return self.intercept + float(self.words.take(buckets).sum()) / math.sqrt(len(buckets))

    def save(self, path: Path) -> None:
        """Write the arrays."""
        forest = {name: getattr(self.forest, name) for name in _FOREST}
        np.savez_compressed(
            path,
            allow_pickle=False,
            lexicon=np.array([VERSION, COLUMNS, self.forest.depth]),
            words=self.words,
            intercept=np.array(self.intercept),
            models=np.array("\n".join(self.models)),
            levels=np.array(LEVELS),
            **forest,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the arrays. Raises PackError if they are not what this version computes with."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                made = dict(arrays)
                model = cls(
                    words=made["words"],
                    intercept=float(made["intercept"]),
                    models=tuple(str(made["models"]).split("\n")),
                    forest=Forest(**{name: made[name] for name in _FOREST}, depth=int(made["lexicon"][2])),
                )
                made_for = made["lexicon"][:2].tolist(), made["levels"].tolist()
        except (OSError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile) as error:
            raise PackError(f"{path}: not a features model ({error}); train it anew") from error
        if made_for != ([VERSION, COLUMNS], list(LEVELS)):
            raise PackError(f"{path}: made for other features or quantiles; train it anew")
        model.check(path)
        return model

    def check(self, path: Path) -> None:
        """Raise PackError where an index would lead outside the arrays."""
        forest = self.forest
        nodes = len(forest.value)
        sound = (
            self.words.shape == (BUCKETS,)
            and all(getattr(forest, name).ndim == 1 for name in _FOREST)
            and math.isfinite(self.intercept)
            and bool(np.isfinite(self.words).all() and np.isfinite(forest.value).all())
            and len(forest.feature) == len(forest.threshold) == nodes
            and len(forest.children) == 2 * nodes
            and len(forest.base) == len(forest.starts) == len(LEVELS)
            and _all_within(forest.feature, COLUMNS + len(self.models) + 1)
            and _all_within(forest.children, nodes)
            and _all_within(forest.roots, nodes)
            and _all_within(forest.starts, len(forest.roots))
            and forest.starts[0] == 0
            and bool((np.diff(forest.starts) > 0).all())
            and 0 <= forest.depth <= nodes
        )
        if not sound:
            raise PackError(f"{path}: its arrays contradict each other; train it anew")


class FeaturesEstimator:
    """Quantiles from a trained ``FeaturesModel``."""

    def __init__(self, model: FeaturesModel, version: str) -> None:
        self._model = model
        self._version = version

    @classmethod
    def load(cls, folder: Path) -> Self:
        """A trained model's folder. Raises PackError."""
        card = read_card(folder, KIND)
        return cls(FeaturesModel.load(folder / ARRAYS), card.model)

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """Quantiles of what training has seen follow such prompts."""
        logs = self._model.forest.predict(self._model.row(request))
        tokens = np.exp(np.minimum(logs, _LONGEST)).tolist()
        return LengthEstimate.of(LEVELS, tokens, request.max_tokens, KIND, self._version)


def _all_within(indices: npt.NDArray[np.int32], end: int) -> bool:
    whole = np.issubdtype(indices.dtype, np.integer) and len(indices) > 0
    return whole and bool(indices.min() >= 0 and indices.max() < end)
