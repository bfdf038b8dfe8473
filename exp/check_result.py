"""What an emulation check has measured, and the figures that it comes to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from exp.check_plan import Cell
from exp.serving_metrics import ERROR_KEYS, ServingMetrics, relative_errors, worst

_DIGITS = 5
GOALS: Mapping[str, float] = {
    "ttft_mean_err": 0.05,
    "tpot_mean_err": 0.02,
    "itl_mean_err": 0.02,
    "e2e_mean_err": 0.02,
    "throughput_err": 0.01,
}
"""How far emulation may be from real runs, beyond what those differ by among themselves."""


@dataclass(frozen=True)
class CellResult:
    """One load, run for real, emulated, and in virtual time."""

    model: str
    cell: Cell
    real: tuple[ServingMetrics, ...]
    """From the process that was recorded."""
    emulated: tuple[ServingMetrics, ...]
    steady: tuple[ServingMetrics, ...]
    """Emulated, every step at its mean."""
    virtual: tuple[ServingMetrics, ...]
    virtual_steady: ServingMetrics
    """Every step at its mean."""
    emulated_s: float
    """Wall time of one emulated run, on average."""
    virtual_s: float
    """The same of one virtual run."""
    other_cores: float = 0.0
    """The most that other work took of the machine during a run."""

    @property
    def errors(self) -> dict[str, float]:
        """Emulated against real, means of the repeats."""
        return relative_errors(ServingMetrics.mean_of(self.emulated), ServingMetrics.mean_of(self.real))

    @property
    def floor(self) -> dict[str, float]:
        """Every second real run against the others: how far the truth can be repeated."""
        later, earlier = self.real[1::2], self.real[0::2]
        return relative_errors(ServingMetrics.mean_of(later), ServingMetrics.mean_of(earlier))

    @property
    def beyond_floor(self) -> dict[str, float]:
        """By how much the errors exceed the floor; negative within it."""
        return {key: abs(error) - abs(self.floor[key]) for key, error in self.errors.items()}

    @property
    def holds(self) -> bool:
        """Whether emulation keeps all goals."""
        return self._keeps_goals(self.errors)

    @property
    def real_holds(self) -> bool:
        """Whether the second half of the real runs would, with the first half as the truth."""
        half = len(self.real) // 2
        halves = ServingMetrics.mean_of(self.real[half:]), ServingMetrics.mean_of(self.real[:half])
        return self._keeps_goals(relative_errors(*halves))

    def _keeps_goals(self, errors: Mapping[str, float]) -> bool:
        return all(abs(errors[key]) - abs(self.floor[key]) <= most for key, most in GOALS.items())

    @property
    def virtual_errors(self) -> dict[str, float]:
        """Virtual against emulated, both at mean step times: what is left is the clocks."""
        return relative_errors(self.virtual_steady, ServingMetrics.mean_of(self.steady))

    @property
    def virtual_floor(self) -> dict[str, float] | None:
        """Every second steady run against the others; None of a single one."""
        later, earlier = self.steady[1::2], self.steady[0::2]
        if not later:
            return None
        return relative_errors(ServingMetrics.mean_of(later), ServingMetrics.mean_of(earlier))

    @property
    def speedup(self) -> float:
        """Of virtual time over the wall clock."""
        return self.emulated_s / self.virtual_s


def summary(results: Sequence[CellResult]) -> dict[str, Any]:
    """The last line: signed relative errors of the worst cell, as fractions."""
    return {
        **_worst([result.errors for result in results]),
        "floor": _worst([result.floor for result in results]),
        "beyond_floor": _most([result.beyond_floor for result in results]),
        "all_cells": all_cells(results),
        "goals_held": sum(result.holds for result in results),
        "goals_held_by_real_runs": sum(result.real_holds for result in results),
        "virtual": _worst([result.virtual_errors for result in results]),
        "speedup_virtual": round(min(result.speedup for result in results), 1),
        "cells": len(results),
        "other_cores": round(max(result.other_cores for result in results), 2),
        "failed": sum(m.failed for r in results for m in (*r.real, *r.emulated, *r.steady)),
    }


def all_cells(results: Sequence[CellResult]) -> dict[str, dict[str, float]]:
    """What the errors of all cells come to: their mean, and their root mean square beside the floor's.

    One cell's error and its floor are a difference of few runs each, on a machine with moods; over many
    cells a bias shows in the mean, and emulation that is as good as another real run has the floor's square.
    """
    errors, floors = [result.errors for result in results], [result.floor for result in results]
    return {
        "mean": {key: round(fmean(cell[key] for cell in errors), _DIGITS) for key in ERROR_KEYS},
        "rms": {key: _rms(errors, key) for key in ERROR_KEYS},
        "floor_rms": {key: _rms(floors, key) for key in ERROR_KEYS},
    }


def _rms(cells: Sequence[dict[str, float]], key: str) -> float:
    return round(math.sqrt(fmean(cell[key] ** 2 for cell in cells)), _DIGITS)


def _worst(cells: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(worst(cells, key), _DIGITS) for key in ERROR_KEYS}


def _most(cells: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(max(cell[key] for cell in cells), _DIGITS) for key in ERROR_KEYS}
