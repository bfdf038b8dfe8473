"""P99 TTFT of each policy under each workload, or at each load, as a map of numbers and colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Interval, Row
from exp.figures.style import new_figure, save, seeds_told


def draw_heat_map(rows: Sequence[Row], spec: ExperimentSpec, folder: Path) -> list[Path]:
    """One figure per engine and rate, over workloads; with a single workload one per engine, over rates.

    Colours are of the logarithm.
    """
    files = []
    for engine in dict.fromkeys(row.engine for row in rows):
        chosen = [row for row in rows if row.engine == engine]
        if len({row.workload for row in rows}) == 1:
            title = f"{spec.title}: P99 TTFT in s by load"
            files += _draw(chosen, _rate, "load, requests/s", title, folder, f"heat-map-{engine}")
            continue
        for rate in sorted({row.rate_per_s for row in chosen}):
            title = f"{spec.title}: P99 TTFT in s at {rate:g} requests/s"
            at_rate = [row for row in chosen if row.rate_per_s == rate]
            files += _draw(at_rate, _workload, "workload", title, folder, f"heat-map-{engine}-{rate:g}")
    return files


def _rate(row: Row) -> str:
    return f"{row.rate_per_s:g}"


def _workload(row: Row) -> str:
    return row.workload


def _draw(
    rows: Sequence[Row],
    column_of: Callable[[Row], str],
    axis: str,
    title: str,
    folder: Path,
    name: str,
) -> list[Path]:
    policies = list(dict.fromkeys(row.policy for row in rows))
    columns = list(dict.fromkeys(column_of(row) for row in rows))
    cells = {
        (y, x): Interval.of([row.figures["ttft_p99_s"] for row in rows if (row.policy, column_of(row)) == at])
        for (y, x), at in zip(
            np.ndindex(len(policies), len(columns)), product(policies, columns), strict=True
        )
    }
    values = np.full((len(policies), len(columns)), np.nan)
    for at, interval in cells.items():
        values[at] = interval.mean
    figure, [axes] = new_figure(1, 1, width=2.6 + 1.1 * len(columns), height=1.6 + 0.4 * len(policies))
    shown = np.log10(np.maximum(values, 1e-3))
    # A map that also rises in lightness, so that it can be read without colours.
    image = axes.imshow(shown, cmap="cividis_r", aspect="auto")
    scale = figure.colorbar(image, ax=axes, label="P99 TTFT, s")
    scale.ax.yaxis.set_major_formatter(lambda exponent, _: f"{10**exponent:.2g}")
    middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
    for (y, x), interval in cells.items():
        colour = "white" if shown[y, x] > middle else "black"
        half = "" if np.isnan(interval.half) else f" ± {interval.half:.2f}"
        axes.text(x, y, f"{interval.mean:.2f}{half}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlabel(axis)
    axes.set_yticks(range(len(policies)), policies)
    seeds = len({row.seed for row in rows})
    figure.suptitle(f"{title}\n({seeds_told(seeds)})", fontsize=9)
    return save(figure, folder, name)
