"""Latency, overhead and throughput over load, a line per policy (the paper's figures 6 and 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Interval, Row, curves, groups
from exp.figures.style import draw_curve, new_figure, save


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure."""

    figure: str
    label: str
    scale: float = 1.0
    logarithmic: bool = False


_BELOW = 0.5
"""A logarithmic panel begins at so much of the smallest mean."""

PANELS = (
    Panel("ttft_mean_s", "mean TTFT, s", logarithmic=True),
    Panel("ttft_p99_s", "P99 TTFT, s", logarithmic=True),
    Panel("e2e_mean_s", "mean E2E, s"),
    Panel("e2e_p99_s", "P99 E2E, s"),
    Panel("decision_mean_s", "mean scheduling overhead, ms", 1e3),
    Panel("requests_per_s", "throughput, requests/s"),
    Panel("tpot_mean_s", "mean TPOT, ms", 1e3),
    Panel("preemptions", "preemptions"),
)


def draw_load(rows: Sequence[Row], spec: ExperimentSpec, folder: Path) -> list[Path]:
    """One figure per engine and workload."""
    files = []
    for (engine, workload), group in groups(rows).items():
        figure, axes = new_figure(2, 4)
        for each, panel in zip(axes, PANELS, strict=True):
            _draw_panel(each, panel, group)
        for slo_s in spec.slo_ttft_s:
            axes[1].axhline(slo_s, color="#7F7F7F", lw=0.8, ls=":")
            at = (0.01, slo_s)
            axes[1].annotate(
                f"SLO {slo_s:g} s", at, xycoords=("axes fraction", "data"), fontsize=7, va="bottom"
            )
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle(_title(spec, engine, workload, group))
        files += save(figure, folder, f"load-{engine}-{workload}")
    return files


def _draw_panel(axes: Axes, panel: Panel, rows: Sequence[Row]) -> None:
    for place, (policy, points) in enumerate(curves(rows, panel.figure).items()):
        scaled = [(rate, Interval(i.mean * panel.scale, i.half * panel.scale)) for rate, i in points]
        draw_curve(axes, place, policy, scaled)
    axes.set_xlabel("load, requests/s")
    axes.set_ylabel(panel.label)
    if all(math.isnan(row.figures[panel.figure]) for row in rows):
        axes.set_axis_off()
        axes.set_title(f"{panel.label}: not measured", fontsize=8)
        return
    if panel.logarithmic:
        axes.set_yscale("log")
        # Bands that reach down to nothing would take all the room.
        lines = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.get_lines()])
        if (lines > 0).any():
            axes.set_ylim(bottom=_BELOW * float(lines[lines > 0].min()))
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _title(spec: ExperimentSpec, engine: str, workload: str, rows: Sequence[Row]) -> str:
    seeds = len({row.seed for row in rows})
    shown = f"mean of {seeds} seeds, bands: 95 % intervals" if seeds > 1 else "one seed, no intervals"
    return f"{spec.title}: engine {engine}, workload {workload} ({shown})"
