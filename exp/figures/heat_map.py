"""P99 TTFT of each policy under each workload at one load, as a map of numbers and colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Interval, Row
from exp.figures.style import new_figure, save


def draw_heat_map(rows: Sequence[Row], spec: ExperimentSpec, folder: Path) -> list[Path]:
    """One figure per engine and rate; colours are of the logarithm."""
    files = []
    for engine in dict.fromkeys(row.engine for row in rows):
        for rate in sorted({row.rate_per_s for row in rows}):
            chosen = [row for row in rows if (row.engine, row.rate_per_s) == (engine, rate)]
            files += _draw(chosen, f"{spec.title}: P99 TTFT in s at {rate:g} requests/s", folder)
    return files


def _draw(rows: Sequence[Row], title: str, folder: Path) -> list[Path]:
    policies = list(dict.fromkeys(row.policy for row in rows))
    workloads = list(dict.fromkeys(row.workload for row in rows))
    values = np.array([[_mean(rows, policy, workload) for workload in workloads] for policy in policies])
    figure, [axes] = new_figure(1, 1, width=1.6 + 1.3 * len(workloads), height=1.2 + 0.4 * len(policies))
    shown = np.log10(np.maximum(values, 1e-3))
    # A map that also rises in lightness, so that it can be read without colours.
    axes.imshow(shown, cmap="cividis_r", aspect="auto")
    middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
    for y, x in np.ndindex(values.shape):
        colour = "white" if shown[y, x] > middle else "black"
        axes.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(workloads)), workloads, rotation=20, ha="right")
    axes.set_yticks(range(len(policies)), policies)
    figure.suptitle(title, fontsize=9)
    return save(figure, folder, f"heat-map-{rows[0].engine}-{rows[0].rate_per_s:g}")


def _mean(rows: Sequence[Row], policy: str, workload: str) -> float:
    return Interval.of(
        [row.figures["ttft_p99_s"] for row in rows if (row.policy, row.workload) == (policy, workload)]
    ).mean
