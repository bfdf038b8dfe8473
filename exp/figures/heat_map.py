"""P99 TTFT of each policy under each workload, or at each load, as a map of numbers and colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Interval, Row
from exp.figures.style import new_figure, save


def draw_heat_map(rows: Sequence[Row], spec: ExperimentSpec, folder: Path) -> list[Path]:
    """One figure per engine and rate, over workloads; with a single workload one per engine, over rates.

    Colours are of the logarithm.
    """
    files = []
    for engine in dict.fromkeys(row.engine for row in rows):
        chosen = [row for row in rows if row.engine == engine]
        if len({row.workload for row in rows}) == 1:
            title = f"{spec.title}: P99 TTFT in s by load"
            files += _draw(chosen, _rate, title, folder, f"heat-map-{engine}")
            continue
        for rate in sorted({row.rate_per_s for row in chosen}):
            title = f"{spec.title}: P99 TTFT in s at {rate:g} requests/s"
            at_rate = [row for row in chosen if row.rate_per_s == rate]
            files += _draw(at_rate, _workload, title, folder, f"heat-map-{engine}-{rate:g}")
    return files


def _rate(row: Row) -> str:
    return f"{row.rate_per_s:g}/s"


def _workload(row: Row) -> str:
    return row.workload


def _draw(
    rows: Sequence[Row], column_of: Callable[[Row], str], title: str, folder: Path, name: str
) -> list[Path]:
    policies = list(dict.fromkeys(row.policy for row in rows))
    columns = list(dict.fromkeys(column_of(row) for row in rows))
    values = np.full((len(policies), len(columns)), np.nan)
    for y, x in np.ndindex(values.shape):
        of = [row for row in rows if (row.policy, column_of(row)) == (policies[y], columns[x])]
        values[y, x] = Interval.of([row.figures["ttft_p99_s"] for row in of]).mean
    figure, [axes] = new_figure(1, 1, width=2.4 + 0.9 * len(columns), height=1.2 + 0.4 * len(policies))
    shown = np.log10(np.maximum(values, 1e-3))
    # A map that also rises in lightness, so that it can be read without colours.
    axes.imshow(shown, cmap="cividis_r", aspect="auto")
    middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
    for y, x in np.ndindex(values.shape):
        colour = "white" if shown[y, x] > middle else "black"
        axes.text(x, y, f"{values[y, x]:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
    axes.set_yticks(range(len(policies)), policies)
    figure.suptitle(title, fontsize=9)
    return save(figure, folder, name)
