"""From recorded steps to a fitted model, and how far off it is on steps it has not seen.

Two methods. ``linear``: non-negative robust least squares on a rising piecewise-linear curve over tokens
and the linear terms. ``boosted``: gradient-boosted trees, of which the simulation gets the linear form
fitted to the trees' own predictions on the shapes seen, each region of shapes counting once. The trees'
own error is reported beside it, as the bound that the form falls short of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from block.errors import PackError
from block.latency.base import KernelLatency
from block.latency.boosted import BoostedSteps
from block.latency.fitted import Errors, FitReport, FittedLatency, Provenance
from block.latency.least_squares import Bounds, Floats, fit_relative
from block.latency.shapes import CONTEXT, PRODUCTS, REQUESTS, TOKENS, kernel_seconds, shape_array
from block.types import BatchShape

Method = Literal["linear", "boosted"]

FEWEST_STEPS = 50
_HELD_OUT_BLOCK = 25
_HELD_OUT_EVERY = 5
_FEWEST_PER_KNOT = 8
_CELLS_PER_DOUBLING = 4


def fit(
    steps: Iterable[tuple[BatchShape, float]], name: str, provenance: Provenance, method: Method = "linear"
) -> FittedLatency:
    """Fit ``(shape, seconds)`` pairs in the order in which they ran; raises PackError if they are too few.

    Every fifth run of 25 steps is held out for the report; the model itself is fitted to all.
    """
    shapes, seconds = _arrays(steps)
    held_out = np.arange(len(seconds)) // _HELD_OUT_BLOCK % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
    seen_shapes, seen, unseen_shapes, unseen = (
        shapes[~held_out],
        seconds[~held_out],
        shapes[held_out],
        seconds[held_out],
    )
    trees = BoostedSteps(seen_shapes, seen)
    report = FitReport(
        steps=len(seen),
        held_out_steps=len(unseen),
        linear=_errors(kernel_seconds(fit_kernel(seen_shapes, seen), unseen_shapes), unseen),
        boosted=_errors(trees.seconds(unseen_shapes), unseen),
        boosted_form=_errors(kernel_seconds(_form_of(trees, seen_shapes), unseen_shapes), unseen),
    )
    whole = (
        fit_kernel(shapes, seconds) if method == "linear" else _form_of(BoostedSteps(shapes, seconds), shapes)
    )
    return FittedLatency(name, whole, method, provenance, report)


def fit_kernel(shapes: Floats, seconds: Floats) -> KernelLatency:
    """The simulation's form, fitted robustly; rises with tokens, and no term is negative."""
    knots = choose_knots(shapes[:, TOKENS])
    # One term per stretch of the curve: its rise. A sum of rises cannot fall.
    rises = np.clip(shapes[:, [TOKENS]] - knots[:-1], 0.0, np.append(np.diff(knots)[:-1], np.inf))
    rows = np.column_stack([np.ones(len(shapes)), rises, shapes[:, [CONTEXT, PRODUCTS, REQUESTS]]])
    unit = np.maximum(np.abs(rows).max(axis=0), 1e-12)
    scaled = rows / unit
    start = np.zeros(len(unit))
    start[0] = np.median(seconds)
    terms, _ = fit_relative(scaled, seconds, Bounds.non_negative(len(unit)), start, rounds=12)
    terms = terms / unit
    curve = terms[0] + np.concatenate([[0.0], np.cumsum(terms[1 : len(knots)] * np.diff(knots))])
    context, products, requests = (float(term) for term in terms[len(knots) :])
    return KernelLatency(tuple(map(float, knots)), tuple(map(float, curve)), context, products, requests)


def choose_knots(tokens: Floats) -> Floats:
    """Powers of two within what was seen, wherever a stretch has enough steps to tell its slope."""
    low, high = float(tokens.min()), float(tokens.max())
    knots = [low]
    for power in 2.0 ** np.arange(16):
        inside = np.count_nonzero((tokens >= knots[-1]) & (tokens <= power))
        if low < power < high and inside >= _FEWEST_PER_KNOT:
            knots.append(float(power))
    if len(knots) > 1 and np.count_nonzero(tokens >= knots[-1]) < _FEWEST_PER_KNOT:
        knots.pop()
    return np.array([*knots, max(high, low + 1.0)])


def _form_of(trees: BoostedSteps, shapes: Floats) -> KernelLatency:
    cells = np.round(np.log2(shapes + 1.0) * _CELLS_PER_DOUBLING)
    _, first = np.unique(cells, axis=0, return_index=True)
    return fit_kernel(shapes[first], trees.seconds(shapes[first]))


def _arrays(steps: Iterable[tuple[BatchShape, float]]) -> tuple[Floats, npt.NDArray[np.float64]]:
    pairs = [(shape, seconds) for shape, seconds in steps if seconds > 0]
    if len(pairs) < FEWEST_STEPS:
        raise PackError(f"steps: {len(pairs)} with a duration; a fit needs at least {FEWEST_STEPS}")
    return shape_array(shape for shape, _ in pairs), np.array([seconds for _, seconds in pairs])


def _errors(predicted: Floats, measured: Floats) -> Errors:
    off = np.abs(predicted - measured) / measured
    return Errors(median=round(float(np.median(off)), 5), p90=round(float(np.quantile(off, 0.9)), 5))
