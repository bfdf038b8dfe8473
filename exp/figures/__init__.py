"""Figures of experiments, by name: each one file, drawn from the rows of a run's summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Row
from exp.figures.capacity import draw_capacity
from exp.figures.heat_map import draw_heat_map
from exp.figures.load import draw_load
from exp.figures.prediction import draw_prediction

Draw = Callable[[Sequence[Row], ExperimentSpec, Path], list[Path]]
"""Draws into a folder; returns the files."""

FIGURES: Mapping[str, Draw] = {
    "load": draw_load,
    "capacity": draw_capacity,
    "heat_map": draw_heat_map,
    "prediction": draw_prediction,
}
