"""The operator contract: shapes in, seconds out, and how far measurements stand behind them.

An operator is one kernel or one group of kernels of one layer: a projection, attention, an all-reduce.
Where its figures come from is its reader's matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from block.errors import PackError
from block.latency.least_squares import Floats

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Timings:
    """What some shapes cost, one entry per shape."""

    seconds: Floats
    covered: Flags
    """False where measurements had to be extrapolated."""
    assumed_s: Floats
    """Of the seconds: from datasheets and stand-ins, where nothing was measured."""

    @classmethod
    def measured(cls, seconds: Floats, covered: Flags) -> Self:
        """From measurements alone."""
        return cls(seconds, covered, np.zeros(len(seconds)))

    @classmethod
    def assumed(cls, seconds: Floats) -> Self:
        """From no measurement, so that none is left behind either."""
        return cls(seconds, np.ones(len(seconds), dtype=bool), seconds)

    def __add__(self, other: Timings) -> Timings:
        return Timings(
            self.seconds + other.seconds, self.covered & other.covered, self.assumed_s + other.assumed_s
        )

    def scaled(self, factor: float) -> Timings:
        """The same, ``factor`` times."""
        return Timings(self.seconds * factor, self.covered, self.assumed_s * factor)

    def if_covered(self, also: Flags) -> Timings:
        """The same, covered only where ``also`` holds."""
        return Timings(self.seconds, self.covered & also, self.assumed_s)


class Operator(Protocol):
    """Never raises on a shape: what was not measured is extrapolated and says so."""

    @property
    def name(self) -> str:
        """As its profile calls it."""
        ...

    @property
    def axes(self) -> tuple[str, ...]:
        """What the numbers of a shape mean."""
        ...

    def time(self, shapes: Floats) -> Timings:
        """``shapes`` is (shapes, axes)."""
        ...


@dataclass(frozen=True, slots=True)
class Samples:
    """Measurements of one operator."""

    name: str
    axes: tuple[str, ...]
    shapes: Floats
    """(samples, axes)"""
    seconds: Floats

    def __post_init__(self) -> None:
        if not len(self.seconds):
            raise PackError(f"{self.name}: no measurements; check that the profile has this operator")

    @classmethod
    def of(cls, name: str, axes: tuple[str, ...], columns: tuple[Floats, ...], seconds: Floats) -> Self:
        """Of whole columns; rows without a figure are left out."""
        told = np.isfinite(seconds) & np.all([np.isfinite(column) for column in columns], axis=0)
        return cls(name, axes, np.column_stack(columns)[told], seconds[told])

    def only(self, rows: Flags) -> Self:
        """Some of them."""
        return type(self)(self.name, self.axes, self.shapes[rows], self.seconds[rows])

    def merged(self) -> Self:
        """Repeated measurements of one shape become their median; sorted by shape."""
        shapes, group = np.unique(self.shapes, axis=0, return_inverse=True)
        order = np.argsort(group, kind="stable")
        parts = np.split(self.seconds[order], np.cumsum(np.bincount(group))[:-1])
        medians = np.array([np.median(part) for part in parts])
        return type(self)(self.name, self.axes, shapes, medians)


def within(samples: Samples, shapes: Floats) -> Flags:
    """Which shapes lie between the smallest and the largest measured along every axis."""
    low, high = samples.shapes.min(axis=0), samples.shapes.max(axis=0)
    return np.asarray(np.all((shapes >= low) & (shapes <= high), axis=1))
