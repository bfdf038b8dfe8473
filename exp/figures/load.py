"""Latency, overhead and throughput over load, a line per policy (the paper's figures 6 and 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Interval, Row, curves, groups
from exp.figures.style import Look, draw_curve, looks, new_figure, plain_log_ticks, save, seeds_told


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure."""

    figure: str
    label: str
    scale: float = 1.0
    logarithmic: bool = False


_BELOW, _ABOVE = 0.7, 1.5
"""A logarithmic panel goes from so much of the smallest mean to so much of the largest."""
_FLAT = 0.05
"""A linear panel whose values differ by a smaller share begins at 0: nothing is to be told apart."""
_ROOM = 0.12
"""Of the span of means, below and above them in a linear panel."""

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
            _draw_panel(each, panel, group, looks(list(spec.policies), spec.ours))
        _mark_slos(axes[1], spec)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle(_title(spec, engine, workload, group))
        files += save(figure, folder, f"load-{engine}-{workload}")
    return files


def _mark_slos(axes: Axes, spec: ExperimentSpec) -> None:
    """Those that the panel's range has; named at the right, where curves are above them."""
    low, high = axes.get_ylim()
    for slo_s in spec.slo_ttft_s:
        if low < slo_s < high:
            axes.axhline(slo_s, color="#7F7F7F", lw=0.8, ls=":", zorder=0)
            axes.annotate(
                f" SLO\n {slo_s:g} s",
                (1.0, slo_s),
                xycoords=("axes fraction", "data"),
                fontsize=7,
                va="center",
                annotation_clip=False,
            )


def _draw_panel(axes: Axes, panel: Panel, rows: Sequence[Row], drawn: Mapping[str, Look]) -> None:
    axes.set_xlabel("load, requests/s")
    axes.set_ylabel(panel.label)
    if all(math.isnan(row.figures[panel.figure]) for row in rows):
        axes.set_axis_off()
        axes.set_title(f"{panel.label}: not measured", fontsize=8)
        return
    for policy, points in curves(rows, panel.figure).items():
        scaled = [(rate, Interval(i.mean * panel.scale, i.half * panel.scale)) for rate, i in points]
        draw_curve(axes, drawn[policy], policy, scaled)
    means = np.array([row.figures[panel.figure] * panel.scale for row in rows])
    _set_range(axes, means[~np.isnan(means)], logarithmic=panel.logarithmic)
    axes.grid(alpha=0.3)


def _set_range(axes: Axes, values: npt.NDArray[np.float64], *, logarithmic: bool) -> None:
    """About what cells came to; whiskers may be cut, for some reach down to nothing."""
    low, high = float(values.min()), float(values.max())
    if logarithmic and low > 0:
        axes.set_yscale("log")
        axes.set_ylim(_BELOW * low, _ABOVE * high)
        plain_log_ticks(axes)
        return
    if high - low < _FLAT * high:
        axes.set_ylim(0.0, 1.3 * high)
        return
    room = _ROOM * (high - low) or _ROOM * high or 1.0
    axes.set_ylim(max(low - room, 0.0) if low > 0 else -room / 4, high + room)


def _title(spec: ExperimentSpec, engine: str, workload: str, rows: Sequence[Row]) -> str:
    seeds = len({row.seed for row in rows})
    return f"{spec.title}: engine {engine}, workload {workload} ({seeds_told(seeds)})"
