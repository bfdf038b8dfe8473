"""Online recalibration: shifts an estimator's quantiles until they hold for the requests that complete.

Conformal, one quantile at a time: for each level, the residuals ``log(real) - log(said)`` of recent
responses of the same model are kept, and the level's own quantile of them is added to what the
estimator says next. Whatever the estimator, the shifted quantiles then cover as they say, as far as the
next requests are like the recent ones (``conformal``, over a sliding window). Of a response that was cut
at its limit only a bound is known, and it counts as one. Around a point estimate it makes a distribution.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec.structs import replace

from length_estimation.conformal import Flags, Floats, censored_shifts, conformal_shifts, informative
from length_estimation.estimator import Completion, EstimationRequest, Estimator, Learner, LengthEstimate
from length_estimation.quantiles import LEVELS

WINDOW: Final = 512
"""Responses remembered of each model."""
MODELS: Final = 64
_EVERY: Final = 8
"""Responses between two new sets of shifts; at the start every one makes a new set."""
_CAUTION: Final = 15.0
"""A shift learned from this many responses goes half the way; from ten times as many, 99 %."""


class ResidualWindow:
    """Recent residuals at each level, and the shifts that follow from them."""

    def __init__(self, levels: Sequence[float]) -> None:
        self._levels = np.array(levels)
        self._residuals: Floats = np.empty((WINDOW, len(levels)))
        self._cut: Flags = np.zeros(WINDOW, dtype=np.bool_)
        self._count = 0
        self._shifts: Floats = np.zeros(len(levels))

    @property
    def count(self) -> int:
        """Responses seen."""
        return self._count

    @property
    def shifts(self) -> Floats:
        """To be added to the logarithms of the quantiles, shape (levels,)."""
        return self._shifts

    def add(self, residuals: Floats, cut: bool = False) -> None:
        """Take in one response's residuals, shape (levels,); ``cut``: it would have gone on."""
        self._residuals[self._count % WINDOW] = residuals
        self._cut[self._count % WINDOW] = cut
        self._count += 1
        if self._count <= 2 * _EVERY or self._count % _EVERY == 0:
            self._shifts = self._learned(min(self._count, WINDOW))

    def _learned(self, known: int) -> Floats:
        residuals, cut = self._residuals[:known], self._cut[:known]
        if not cut.any():
            return conformal_shifts(residuals, self._levels) * _trust(known)
        return censored_shifts(residuals, cut, self._levels) * _trust(informative(residuals, cut))


class Recalibration:
    """Corrections to one estimator, for each served model apart."""

    def __init__(self) -> None:
        self._windows: OrderedDict[str, ResidualWindow] = OrderedDict()

    @property
    def counts(self) -> dict[str, int]:
        """Completions learned from, by model."""
        return {model: window.count for model, window in self._windows.items()}

    def correct(self, said: LengthEstimate, request: EstimationRequest) -> LengthEstimate:
        """What was said, its quantiles shifted; the same if nothing is known of the model."""
        window = self._windows.get(request.model)
        if window is None or not said.unbounded:
            return said
        levels, tokens = _spread(said)
        shifted = np.exp(np.log(tokens) + window.shifts).tolist()
        version = f"{said.version}+r{window.count}"
        made = LengthEstimate.of(levels, shifted, request.max_tokens, said.source, version)
        # What is learned from is always the estimate itself, whatever the shifts were at the time.
        return replace(made, unbounded=said.unbounded)

    def learn(self, completion: Completion) -> None:
        """Note how far off the uncorrected estimate was; a completion without tokens says nothing."""
        if completion.output_tokens < 1 or not completion.estimate.unbounded:
            return
        levels, tokens = _spread(completion.estimate)
        model = completion.request.model
        window = self._windows.get(model)
        if window is None or len(window.shifts) != len(levels):
            window = self._windows[model] = ResidualWindow(levels)
        self._windows.move_to_end(model)
        if len(self._windows) > MODELS:
            self._windows.popitem(last=False)
        window.add(math.log(completion.output_tokens) - np.log(tokens), completion.cut)

    def reset(self, model: str | None = None) -> None:
        """Forget the corrections of one model, or all."""
        if model is None:
            self._windows.clear()
        else:
            self._windows.pop(model, None)


class Recalibrated:
    """An estimator and the corrections to it; passes completions on to an estimator that learns."""

    def __init__(self, inner: Estimator) -> None:
        self._inner = inner
        self._recalibration = Recalibration()

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """The inner estimate, corrected."""
        return self._recalibration.correct(self._inner.estimate(request), request)

    def learn(self, completion: Completion) -> None:
        """Teach the corrections, and the inner estimator if it learns."""
        if isinstance(self._inner, Learner):
            self._inner.learn(completion)
        self._recalibration.learn(completion)

    def reset(self, model: str | None = None) -> None:
        """Forget the corrections, and what the inner estimator has learned."""
        if isinstance(self._inner, Learner):
            self._inner.reset(model)
        self._recalibration.reset(model)


def _spread(estimate: LengthEstimate) -> tuple[tuple[float, ...], Floats]:
    """Levels and unbounded tokens; a point is the same at all levels."""
    if len(estimate.quantiles) == 1:
        return LEVELS, np.full(len(LEVELS), max(estimate.unbounded[0], 1.0))
    return tuple(level for level, _ in estimate.quantiles), np.maximum(estimate.unbounded, 1.0)


def _trust(responses: float | Floats) -> float | Floats:
    """How much of a shift that follows from so many responses is made."""
    return responses**2 / (responses**2 + _CAUTION**2)
