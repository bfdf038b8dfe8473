"""How long a batch takes *this time*: a sample around the mean of a pack's recorded steps.

The mean is the simulation's own form, fitted robustly (``fit``); around it, ratios are drawn from those
recorded in the same region of shapes, with their slow ups and downs. A shape unlike any recorded gets the
form's straight continuation and is marked as not covered. Deterministic by seed; a sample costs a few
microseconds. Knows no clock and no engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from block.errors import PackError
from block.latency.base import KernelLatency
from block.latency.fit import fit_kernel
from block.latency.pack import StepPack
from block.latency.residuals import Cell, Level, Memory, Residuals, cell_of
from block.latency.shapes import kernel_seconds
from block.types import BatchShape

Quantity = Literal["duration", "host"]

FEWEST_STEPS = 50
_SHORTEST_S = 1e-6


@dataclass(frozen=True, slots=True)
class OracleSample:
    """One answer."""

    seconds: float
    covered: bool
    """False where it is extrapolated from unlike shapes."""


class StepOracle:
    """Samples of one pack; made once, asked for every step."""

    def __init__(self, pack: StepPack, seed: int, quantity: Quantity = "duration") -> None:
        """``quantity``: the batch's own duration, or the engine's own time before a submission.

        Raises PackError if the pack has too few steps of it.
        """
        values = pack.duration_s if quantity == "duration" else pack.host_s
        told = np.flatnonzero(np.isfinite(values) & (values > 0) & (pack.shape_array[:, 0] > 0))
        if len(told) < FEWEST_STEPS:
            raise PackError(f"pack: tells the {quantity} of {len(told)} steps; needs at least {FEWEST_STEPS}")
        shapes, seconds = pack.shape_array[told], values[told]
        self.kernel: KernelLatency = fit_kernel(shapes, seconds)
        """The fitted mean, before the corrections by region."""
        ratios = seconds / np.maximum(kernel_seconds(self.kernel, shapes), _SHORTEST_S)
        follows = np.diff(pack.step[told], prepend=-1) == 1
        self._residuals = Residuals(shapes, ratios, follows)
        self._cells: dict[Level, Cell] = {}
        self._draw = _Draw(self._residuals.memory, seed)

    @property
    def memory(self) -> Memory:
        """How samples follow one another."""
        return self._residuals.memory

    def sample(self, shape: BatchShape) -> OracleSample:
        """Seconds of one step of this shape, of at least one token."""
        cell, covered = self._look_up(shape)
        spread = cell.spread
        ratio = cell.bias * spread[int(self._draw.uniform() * len(spread))]
        return OracleSample(max(self.kernel.seconds(shape), _SHORTEST_S) * ratio, covered)

    def mean(self, shape: BatchShape) -> OracleSample:
        """What samples of this shape come to in the long run."""
        cell, covered = self._look_up(shape)
        return OracleSample(max(self.kernel.seconds(shape), _SHORTEST_S) * cell.bias, covered)

    def _look_up(self, shape: BatchShape) -> tuple[Cell, bool]:
        key = cell_of(shape.tokens, shape.context_tokens, shape.decode_tokens)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._residuals.cell(key)
        return cell, cell.covered and self._residuals.within(shape)


class _Draw:
    """Uniform numbers below 1 that follow one another as the recorded steps did."""

    def __init__(self, memory: Memory, seed: int) -> None:
        self._random = Random(seed)
        self._persistence = memory.persistence
        self._renewal = math.sqrt(1.0 - memory.persistence**2)
        self._slow_weight, self._fast_weight = math.sqrt(memory.share), math.sqrt(1.0 - memory.share)
        self._slow = self._random.gauss(0.0, 1.0)

    def uniform(self) -> float:
        self._slow = self._persistence * self._slow + self._renewal * self._random.gauss(0.0, 1.0)
        normal = self._slow_weight * self._slow + self._fast_weight * self._random.gauss(0.0, 1.0)
        return min(0.5 * math.erfc(-normal / math.sqrt(2.0)), 1.0 - 1e-12)
