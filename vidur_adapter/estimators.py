"""Operators fitted to their measurements, beside the one that reads them off (``grid``).

For measurements that are few, noisy or scattered. A forest is what Vidur uses; it knows no trend beyond its
measurements, where it stays flat. The linear form never falls in any axis and goes on straight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from block.errors import ConfigError
from block.latency.least_squares import Bounds, Floats, fit_relative
from vidur_adapter.grid import Grid
from vidur_adapter.operator import Flags, Operator, Samples, Timings

_HELD_OUT_EVERY = 5
_FIRST_KNOT, _KNOT_RATIO = 8.0, 4.0


@dataclass(frozen=True)
class Forest:
    """An ``Operator``: scikit-learn's random forest on logarithms."""

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
        return Timings.measured(np.exp(self._trees.predict(np.log1p(shapes))), _inside(self.samples, shapes))

    @cached_property
    def _trees(self) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        forest = RandomForestRegressor(n_estimators=30, random_state=0)
        return forest.fit(np.log1p(self.samples.shapes), np.log(np.maximum(self.samples.seconds, 1e-9)))


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
        return Timings.measured(self._rows(shapes) @ self._terms, _inside(self.samples, shapes))

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


ESTIMATORS: Mapping[str, Callable[[Samples], Operator]] = {"grid": Grid, "rising": Rising, "forest": Forest}


def estimator(name: str) -> Callable[[Samples], Operator]:
    """By name; raises ConfigError that lists the names."""
    if name not in ESTIMATORS:
        raise ConfigError(f"estimator {name!r}: unknown; known are {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def held_out_error(samples: Samples, make: Callable[[Samples], Operator]) -> float:
    """Median relative error on every fifth measured shape, when the others alone are known."""
    merged = samples.merged()
    unseen = np.arange(len(merged.seconds)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY // 2
    if not unseen.any():
        return float("nan")
    seen = Samples(samples.name, samples.axes, merged.shapes[~unseen], merged.seconds[~unseen])
    predicted = make(seen).time(merged.shapes[unseen]).seconds
    return float(np.median(np.abs(predicted / np.maximum(merged.seconds[unseen], 1e-12) - 1)))


def _knots(most: float) -> list[float]:
    knots = [_FIRST_KNOT]
    while knots[-1] * _KNOT_RATIO < most:
        knots.append(knots[-1] * _KNOT_RATIO)
    return knots


def _inside(samples: Samples, shapes: Floats) -> Flags:
    low, high = samples.shapes.min(axis=0), samples.shapes.max(axis=0)
    return np.asarray(np.all((shapes >= low) & (shapes <= high), axis=1))
