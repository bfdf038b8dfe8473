"""Recorded steps replayed through the online calibration: how well it would have foreseen what came next.

After every few steps the model then in force says how long the next ones will take, their shapes known, and
is held against what they took. The base itself is judged beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from block.errors import PackError
from block.latency.base import StepLatencyModel
from block.latency.calibration import OnlineCalibration
from block.latency.least_squares import Floats
from block.latency.pack import StepPack
from block.latency.shapes import kernel_seconds
from block.types import StepRecord

HORIZONS = (1, 20, 100)
"""Steps ahead."""
_JUDGED_EVERY = 7
_NAMES = {"base": "the base, as it is", "calibrated": "corrected while serving"}


@dataclass(frozen=True)
class LatencyReplay:
    """One pack, one base; ``warm_up`` steps are learned from before any is judged."""

    pack: StepPack
    base: StepLatencyModel
    warm_up: int
    errors: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    """(which model, steps ahead) -> signed relative errors."""

    def run(self) -> LatencyReplay:
        """Replay all steps; raises PackError if none of them could be judged."""
        limits = self.pack.header.limits
        calibration = OnlineCalibration(self.base, "replay", limits.max_num_batched_tokens)
        cadence, shapes = _cadence(self.pack), self.pack.shape_array
        if not np.isfinite(cadence).any():
            raise PackError("its steps do not follow one another, as in a modelled pack; give a recorded one")
        for place, record in enumerate(_records(self.pack)):
            calibration.observe([record])
            if place >= self.warm_up and place % _JUDGED_EVERY == 0:
                self._judge(calibration.current(), cadence[place + 1 :], shapes[place + 1 :])
        if not self.errors:
            raise PackError(
                f"{len(self.pack)} steps: none to judge after a warm-up of {self.warm_up}; lower --warm-up "
                "or record longer"
            )
        return self

    def _judge(self, calibrated: StepLatencyModel, cadence: Floats, shapes: Floats) -> None:
        for horizon in HORIZONS:
            real_s = cadence[:horizon].sum()
            if len(cadence) < horizon or not np.isfinite(real_s):
                continue
            for name, model in (("base", self.base), ("calibrated", calibrated)):
                expected_s = kernel_seconds(model.kernel, shapes[:horizon]).sum()
                self.errors.setdefault((name, horizon), []).append(float(expected_s / real_s - 1.0))

    def table(self) -> Table:
        """For people."""
        table = Table("step times by", *(f"next {horizon}" for horizon in HORIZONS))
        table.title = f"{len(self.pack):,} steps: error of their time, median / p90 (bias)"
        for name, title in _NAMES.items():
            table.add_row(title, *(self._cell(name, horizon) for horizon in HORIZONS))
        return table

    def summary(self) -> dict[str, Any]:
        """For the last line: fractions."""
        return {
            "steps": len(self.pack),
            **{name: {str(horizon): self._figures(name, horizon) for horizon in HORIZONS} for name in _NAMES},
        }

    def _cell(self, name: str, horizon: int) -> str:
        figures = self._figures(name, horizon)
        if figures is None:
            return "-"
        return f"{figures['median']:.1%} / {figures['p90']:.1%} ({figures['bias']:+.1%})"

    def _figures(self, name: str, horizon: int) -> dict[str, float] | None:
        signed = self.errors.get((name, horizon))
        if signed is None:
            return None
        sizes = np.abs(signed)
        return {
            "median": round(float(np.median(sizes)), 5),
            "p90": round(float(np.quantile(sizes, 0.9)), 5),
            "bias": round(float(np.median(signed)), 5),
            "judged": len(signed),
        }


def _records(pack: StepPack) -> Iterator[StepRecord]:
    columns = (pack.step, pack.submit_s, pack.ready_s, pack.duration_s)
    rows = zip(*(column.tolist() for column in columns), pack.shapes(), strict=True)
    return (StepRecord(*row) for row in rows)


def _cadence(pack: StepPack) -> Floats:
    """(steps,) seconds from the end before to a step's own; NaN unless one followed the other at once."""
    cadence = np.full(len(pack), np.nan)
    follows = (np.diff(pack.step) == 1) & (pack.decode_tokens[1:] > 0)
    cadence[1:][follows] = np.diff(pack.ready_s)[follows]
    return cadence
