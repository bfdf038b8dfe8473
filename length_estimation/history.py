"""``history``: how long recent responses of the same model to prompts of about this length were.

Learns online and holds a bounded number of histograms. Each is smoothed by the next wider one: prompts
of one length class by the model, the model by all models, those by a wide guess. Never reads the text.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np

from length_estimation.estimator import Completion, EstimationRequest, LengthEstimate
from length_estimation.length_histogram import Floats, LengthHistogram, log_normal_shares, quantiles_of
from length_estimation.quantiles import LEVELS

MODELS: Final = 64
"""Most models remembered; the one that was least recently learned of goes."""
LENGTH_CLASSES: Final = 12
"""By powers of two of the prompt's tokens; the last holds all from 2,048."""
_PARENT_WEIGHT: Final = 12.0
"""Responses that the wider histogram counts for in the narrower one."""
_GUESS_SIGMA: Final = 1.0
_LEVELS: Final = np.array(LEVELS)


class _ModelHistory:
    """All responses of one model, and those to each class of prompt lengths."""

    def __init__(self) -> None:
        self.all = LengthHistogram()
        self.classes = [LengthHistogram() for _ in range(LENGTH_CLASSES)]
        self.known: dict[int, tuple[float, ...]] = {}
        """Quantiles by class, until something is learned."""


class HistoryEstimator:
    """Quantiles of what has been seen; a wide guess around ``guess_tokens`` until then."""

    def __init__(self, guess_tokens: int) -> None:
        self._guess = log_normal_shares(guess_tokens, _GUESS_SIGMA)
        self._all = LengthHistogram()
        self._models: OrderedDict[str, _ModelHistory] = OrderedDict()
        self._learned = 0

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """Quantiles over the narrowest group that has been seen."""
        tokens = self._quantiles(request.model, _length_class(request.prompt_tokens))
        return LengthEstimate.of(LEVELS, tokens, request.max_tokens, "history", str(self._learned))

    def learn(self, completion: Completion) -> None:
        """Count a response; one without any output says nothing."""
        if completion.output_tokens < 1:
            return
        model = self._models.setdefault(completion.request.model, _ModelHistory())
        self._models.move_to_end(completion.request.model)
        if len(self._models) > MODELS:
            self._models.popitem(last=False)
        narrow = model.classes[_length_class(completion.request.prompt_tokens)]
        for histogram in (self._all, model.all, narrow):
            histogram.add(completion.output_tokens, completion.cut)
        model.known.clear()
        self._learned += 1

    def reset(self, model: str | None = None) -> None:
        """Forget a model, also in what is said of models that are not known; or everything."""
        if model is None:
            self._models.clear()
        else:
            self._models.pop(model, None)
        self._all = LengthHistogram.sum_of(each.all for each in self._models.values())
        for each in self._models.values():
            each.known.clear()

    def _quantiles(self, name: str, length_class: int) -> tuple[float, ...]:
        model = self._models.get(name)
        if model is None:
            return _tokens(self._all.shares(self._guess, 1.0))
        if length_class not in model.known:
            shares = model.all.shares(self._all.shares(self._guess, 1.0), _PARENT_WEIGHT)
            shares = model.classes[length_class].shares(shares, _PARENT_WEIGHT)
            model.known[length_class] = _tokens(shares)
        return model.known[length_class]


def _tokens(shares: Floats) -> tuple[float, ...]:
    return tuple(quantiles_of(shares, _LEVELS).tolist())


def _length_class(prompt_tokens: int) -> int:
    return min(max(prompt_tokens, 1).bit_length() - 1, LENGTH_CLASSES - 1)
