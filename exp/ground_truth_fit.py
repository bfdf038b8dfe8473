"""Two constants that a recorded run can tell: host time per step, and how much unequal contexts cost.

A profile has neither for certain: kernels are timed alone, and unevenness was measured for two lengths at a
time. Fitted to the TPOT of single requests of one half of a run, never to those that are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from block.latency.least_squares import Floats
from vidur_adapter.attention import MixedAttention
from vidur_adapter.model import OperatorModel

_ROUNDS = 4
_OUTLIER = 0.03
"""Relative errors beyond this count for less."""
_MOST_UNEVENNESS = 10.0
"""Beyond this, what is fitted is not unevenness but a run that the simulation does not describe."""
_ENOUGH: Mapping[str, float] = {"step_s": 2e-6, "unevenness": 0.01}
"""Once a round moves both by less, they are found."""
_CHANGES: Mapping[str, float] = {"step_s": 2e-4, "unevenness": 0.2}
"""By which each is varied to see what it does."""


@dataclass(frozen=True, slots=True)
class RunConstants:
    """What was fitted."""

    step_s: float = 0.0
    unevenness: float = 1.0
    """Factor on what the profile says that unequal contexts cost; 0 to 10."""

    def of(self, model: OperatorModel) -> OperatorModel:
        """The model with these constants."""
        constants = replace(
            model.constants, step_s=self.step_s, origin="fitted", note="TPOT of one half of the run"
        )
        attention = model.attention
        if isinstance(attention, MixedAttention) and attention.skew is not None:
            attention = replace(attention, skew=replace(attention.skew, factor=self.unevenness))
        return replace(model, attention=attention, constants=constants)


def fit_constants(
    model: OperatorModel,
    tpot_of: Callable[[OperatorModel], Floats],
    recorded: Floats,
    rows: npt.NDArray[np.bool_],
) -> RunConstants:
    """Robust least squares over ``rows`` of ``recorded`` TPOT; ``tpot_of`` simulates a model."""
    told = rows & np.isfinite(recorded)
    skewed = isinstance(model.attention, MixedAttention) and model.attention.skew is not None
    free = list(_CHANGES) if skewed else ["step_s"]
    found = RunConstants()

    def relative(constants: RunConstants) -> Floats:
        return np.asarray(tpot_of(constants.of(model))[told] / recorded[told])

    for _ in range(_ROUNDS):
        base = relative(found)
        slopes = [(relative(_changed(found, name)) - base) / _CHANGES[name] for name in free]
        weights = np.minimum(1.0, _OUTLIER / np.maximum(np.abs(1 - base), 1e-9))
        steps = np.linalg.lstsq(np.column_stack(slopes) * weights[:, None], (1 - base) * weights, rcond=None)[
            0
        ]
        values = {name: getattr(found, name) + step for name, step in zip(free, steps.tolist(), strict=True)}
        found = replace(found, **values)
        bounded = min(max(found.unevenness, 0.0), _MOST_UNEVENNESS)
        if bounded != found.unevenness:  # at its bound, the other is fitted alone
            found, free = replace(found, unevenness=bounded), ["step_s"]
        elif all(abs(step) < _ENOUGH[name] for name, step in zip(free, steps.tolist(), strict=True)):
            break
    return found


def _changed(constants: RunConstants, name: str) -> RunConstants:
    return replace(constants, **{name: getattr(constants, name) + _CHANGES[name]})
