"""How operators are made of measurements: read off (``grid``), or fitted, for few, noisy or scattered ones.

A forest is what Vidur uses. The linear form never falls in any axis and goes on straight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from block.errors import ConfigError
from block.latency.least_squares import Bounds, Floats, fit_relative
from vidur_adapter.forest import Woodland
from vidur_adapter.grid import Grid
from vidur_adapter.operator import Operator, Samples, Timings, within

_HELD_OUT_EVERY = 5
_FIRST_KNOT, _KNOT_RATIO = 8.0, 4.0


@dataclass(frozen=True)
class Rising:
    """An ``Operator``: a sum of rising pieces by axis and of products of axes, none negative."""

    samples: Samples

    @property
    def name(self) -> str:
        """The samples'."""
        return self.samples.name

    @property
    def axes(self) -> tuple[str, ...]:
        """The samples'."""
        return self.samples.axes

    def time(self, shapes: Floats) -> Timings:
        """``shapes`` is (shapes, axes)."""
        return Timings.measured(self._rows(shapes) @ self._terms, within(self.samples, shapes))

    @cached_property
    def _terms(self) -> Floats:
        rows, seconds = self._rows(self.samples.shapes), self.samples.seconds
        measured = seconds > 0
        unit = np.maximum(rows.max(axis=0), 1e-12)
        start = np.zeros(len(unit))
        start[0] = np.median(seconds[measured])
        bounds = Bounds.non_negative(len(unit))
        terms, _ = fit_relative(rows[measured] / unit, seconds[measured], bounds, start, rounds=12)
        return np.asarray(terms / unit)

    def _rows(self, shapes: Floats) -> Floats:
        columns = [np.ones(len(shapes))]
        for axis, most in enumerate(self.samples.shapes.max(axis=0).tolist()):
            knots = [0.0, *_knots(most)]
            columns += [np.maximum(shapes[:, axis] - knot, 0.0) for knot in knots]
            columns += [shapes[:, axis] * shapes[:, other] for other in range(axis)]
        return np.column_stack(columns)


Make = Callable[[Samples], Operator]
ESTIMATORS: Mapping[str, Callable[[], Make]] = {
    "grid": lambda: Grid,
    "rising": lambda: Rising,
    "forest": lambda: Woodland().plant,
}
"""Makers of the operators of one model."""


def estimator(name: str) -> Make:
    """By name, for the operators of one model; raises ConfigError that lists the names."""
    if name not in ESTIMATORS:
        raise ConfigError(f"estimator {name!r}: unknown; known are {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]()


def held_out_errors(measured: Sequence[Samples], make: Make) -> list[float]:
    """Of each: the median relative error on every fifth measured shape, when the others alone are known."""
    parts = [_parted(samples) for samples in measured]
    operators = [make(known) for known, _ in parts]
    return [_median_error(operator, unseen) for operator, (_, unseen) in zip(operators, parts, strict=True)]


def _parted(samples: Samples) -> tuple[Samples, Samples | None]:
    """What is known and what is not; few shapes are all known."""
    merged = samples.merged()
    unseen = np.arange(len(merged.seconds)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY // 2
    return merged.only(~unseen), merged.only(unseen) if unseen.any() else None


def _median_error(operator: Operator, unseen: Samples | None) -> float:
    if unseen is None:
        return float("nan")
    predicted = operator.time(unseen.shapes).seconds
    return float(np.median(np.abs(predicted / np.maximum(unseen.seconds, 1e-12) - 1)))


def _knots(most: float) -> list[float]:
    knots = [_FIRST_KNOT]
    while knots[-1] * _KNOT_RATIO < most:
        knots.append(knots[-1] * _KNOT_RATIO)
    return knots
