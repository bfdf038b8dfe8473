"""The terms by which a base model is corrected, and how firmly each is held to the base.

Terms, in order: factor on the whole curve, offset per step, each knot's own deviation from the factor,
and the slopes in context, products and requests, all in units that make 1 a large change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from block.latency.base import KernelLatency
from block.latency.least_squares import Bounds, Floats, fit_relative
from block.latency.shapes import CONTEXT, PRODUCTS, REQUESTS, TOKENS, interpolation
from block.latency.step_window import StepWindow

LARGEST_FACTOR = 8.0
LARGEST_OFFSET_S = 0.25
_SHORTEST_S = 1e-5
_LARGEST_SLOPE = 64.0
# How firmly, as one over the square of the deviation that is not surprising.
_FACTOR, _OFFSET, _KNOT, _NEIGHBOUR, _SLOPE = 1 / 0.5**2, 1 / 0.15**2, 1 / 0.3**2, 1 / 0.15**2, 1 / 0.4**2
# The first steps are all alike: until there are this many, the base is held to more firmly.
_MANY_STEPS = 300
# Where the base has no slope, one unit makes a step of this size this share of the shortest step dearer.
_TYPICAL = np.array([16_384.0, 1_048_576.0, 256.0])
_TYPICAL_SHARE = 0.1
_MERGED_KNOTS = 1.25


@dataclass(frozen=True, slots=True)
class Correction:
    """Values of the terms."""

    terms: Floats

    @property
    def factor(self) -> float:
        """On the whole curve."""
        return float(self.terms[0])

    @property
    def offset_s(self) -> float:
        """On every step; the first terms' units are seconds and ratios."""
        return float(self.terms[1])


class CurveFit:
    """Corrections of one base kernel."""

    def __init__(self, base: KernelLatency, max_tokens: int = 0) -> None:
        """``max_tokens`` extends the knots beyond the base's, straight on."""
        self._last_base_knot = base.token_knots[-1]
        self._knots = _knots(base, max_tokens)
        curve = interpolation(self._knots, self._knots) @ _heights(base, self._knots)
        self._curve = np.maximum(curve, _SHORTEST_S)
        slopes = np.array([base.per_context_token_s, base.per_prefill_product_s, base.per_request_s])
        self._slope_units = np.maximum(slopes, _TYPICAL_SHARE * float(self._curve.min()) / _TYPICAL)
        self.terms = 2 + len(self._knots) + 3
        self._bounds = self._bounds_around(slopes / self._slope_units)
        self.none = Correction(self._bounds.expected)

    def rows(self, shapes: Floats) -> Floats:
        """(steps, terms): what each term adds to each step's seconds."""
        heights = interpolation(self._knots, shapes[:, TOKENS]) * self._curve
        slopes = shapes[:, [CONTEXT, PRODUCTS, REQUESTS]] * self._slope_units
        return np.column_stack([heights.sum(axis=1), np.ones(len(shapes)), heights, slopes])

    def refit(self, window: StepWindow, start: Correction) -> Correction:
        """The correction that explains the window best."""
        rows, seconds, weights, cells = window.contents()
        ratio = np.median(seconds / np.maximum(rows @ start.terms, _SHORTEST_S))
        firmness = self._bounds.firmness * max(1.0, _MANY_STEPS / len(seconds))
        bounds = replace(self._bounds, firmness=firmness)
        terms, _ = fit_relative(rows, seconds, bounds, start.terms * ratio, weights, cells)
        return Correction(terms)

    def kernel(self, correction: Correction, most_tokens: float) -> KernelLatency:
        """The corrected base; knots beyond both the base and ``most_tokens`` are left out."""
        factor, offset_s, *rest = correction.terms
        deviations, slopes = np.array(rest[:-3]), np.array(rest[-3:]) * self._slope_units
        heights = self._curve * np.clip(factor + deviations, 1 / LARGEST_FACTOR, LARGEST_FACTOR) + offset_s
        covered = max(self._last_base_knot, most_tokens)
        count = max(2, 1 + int(np.searchsorted(self._knots, covered, side="left")))
        return KernelLatency(
            tuple(self._knots[:count].tolist()), tuple(heights[:count].tolist()), *map(float, slopes)
        )

    def _bounds_around(self, expected_slopes: Floats) -> Bounds:
        knots = len(self._knots)
        stiff = np.zeros((self.terms, self.terms))
        stiff[0, 0], stiff[1, 1] = _FACTOR, _OFFSET / float(self._curve.min()) ** 2
        inner = slice(2, 2 + knots)
        steps = np.diff(np.eye(knots), axis=0)
        stiff[inner, inner] = _KNOT * np.eye(knots) + _NEIGHBOUR * steps.T @ steps
        stiff[-3:, -3:] = _SLOPE * np.eye(3)
        wide = np.full(knots, LARGEST_FACTOR)
        return Bounds(
            lower=np.concatenate([[1 / LARGEST_FACTOR, 0.0], -wide, np.zeros(3)]),
            upper=np.concatenate([[LARGEST_FACTOR, LARGEST_OFFSET_S], wide, np.full(3, _LARGEST_SLOPE)]),
            expected=np.concatenate([[1.0, 0.0], np.zeros(knots), expected_slopes]),
            firmness=stiff,
        )


def _knots(base: KernelLatency, max_tokens: int) -> Floats:
    """The base's own, and powers of two where it has none near."""
    knots = list(base.token_knots)
    last = max(knots[-1], float(max_tokens))
    powers = 2.0 ** np.arange(1 + int(np.ceil(np.log2(max(last, 2.0)))))
    for power in powers.tolist():
        if all(max(power, knot) > _MERGED_KNOTS * min(power, knot) for knot in knots):
            knots.append(power)
    return np.array(sorted(knots))


def _heights(base: KernelLatency, knots: Floats) -> Floats:
    own = np.array(base.token_knots)
    return np.asarray(interpolation(own, knots) @ np.array(base.token_seconds))
