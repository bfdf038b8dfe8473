"""What no operator table holds, fitted to a few recorded steps: host time, output layer, a common factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from block.errors import PackError
from block.latency.least_squares import Bounds, Floats, fit_relative
from block.types import BatchShape
from vidur_adapter.batch import StepBatch
from vidur_adapter.model import Constants, OperatorModel

FEWEST_STEPS = 50


def fitted_constants(model: OperatorModel, shapes: Sequence[BatchShape], seconds: Floats) -> Constants:
    """Seconds per step and per request, and a factor on all operators; none negative.

    Robust, with relative errors; the factor is held near 1 unless the steps speak against it. Raises
    PackError for too few steps.
    """
    if len(shapes) < FEWEST_STEPS:
        raise PackError(f"constants: {len(shapes)} steps; a fit needs at least {FEWEST_STEPS}")
    plain = replace(model, constants=Constants())
    operators = plain.time(StepBatch.of_shape(shape) for shape in shapes).seconds
    requests = np.array([float(shape.requests) for shape in shapes])
    unit = np.array([1.0, float(np.median(seconds)), float(np.median(seconds)) / requests.max()])
    rows = np.column_stack([operators, np.ones(len(shapes)), requests]) * unit
    firm = np.diag([25.0, 1e-6, 1e-6])
    bounds = Bounds(np.zeros(3), np.full(3, np.inf), np.array([1.0, 0.0, 0.0]), firm)
    terms, _ = fit_relative(rows, seconds, bounds, np.array([1.0, 0.0, 0.0]), rounds=12)
    factor, step_s, request_s = (terms * unit).tolist()
    return Constants(step_s, request_s, factor, "fitted", f"{len(shapes)} recorded steps")
