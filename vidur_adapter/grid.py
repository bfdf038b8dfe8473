"""An operator read off its measurements: exact where measured, straight lines between.

Axis after axis: along the first, the two measured values around the asked one are found; each has its own
measurements along the second, and so on. So a grid may be ragged, as grids of several profiling runs are.
Above the last value the last line goes on, unless it falls; below the first, its value holds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from block.latency.least_squares import Floats
from vidur_adapter.operator import Samples, Timings


@dataclass(frozen=True, slots=True)
class _Axis:
    """Measured values along one axis, rising, and what lies below each: further axes, or seconds."""

    values: tuple[float, ...]
    below: tuple[_Axis | float, ...]


@dataclass(frozen=True)
class Grid:
    """An ``Operator`` of one or more axes."""

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
        found = [_look_up(self._root, tuple(shape)) for shape in shapes.tolist()]
        seconds = np.array([seconds for seconds, _ in found])
        covered = np.array([covered for _, covered in found], dtype=bool)
        return Timings.measured(np.maximum(seconds, 0.0), covered)

    @cached_property
    def _root(self) -> _Axis:
        merged = self.samples.merged()
        return _branch(merged.shapes, merged.seconds)


def _branch(shapes: Floats, seconds: Floats) -> _Axis:
    values, first = np.unique(shapes[:, 0], return_index=True)
    if shapes.shape[1] == 1:
        return _Axis(tuple(values.tolist()), tuple(seconds.tolist()))
    parts = zip(np.split(shapes[:, 1:], first[1:]), np.split(seconds, first[1:]), strict=True)
    return _Axis(tuple(values.tolist()), tuple(_branch(*part) for part in parts))


def _look_up(axis: _Axis | float, shape: tuple[float, ...]) -> tuple[float, bool]:
    """Seconds, and whether the shape lies within what was measured."""
    if isinstance(axis, float):
        return axis, True
    values, asked, rest = axis.values, shape[0], shape[1:]
    above = bisect_right(values, asked)
    if above == 0 or len(values) == 1 or asked == values[above - 1]:
        place = max(above - 1, 0)
        seconds, covered = _look_up(axis.below[place], rest)
        # An axis whose only value is 0 does not apply: no decodes have no context.
        return seconds, covered and (asked == values[place] or values == (0.0,))
    above = min(above, len(values) - 1)
    low, high = values[above - 1], values[above]
    low_s, low_covered = _look_up(axis.below[above - 1], rest)
    high_s, high_covered = _look_up(axis.below[above], rest)
    share = (asked - low) / (high - low)
    if asked > high:  # more work is never quicker; that the last line falls is noise
        return high_s + (share - 1) * max(high_s - low_s, 0.0), False
    return low_s + share * (high_s - low_s), low_covered and high_covered
