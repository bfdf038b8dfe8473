"""Capacity per policy: the load at which P99 TTFT passes its SLO, bars with intervals over seeds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exp.experiment.capacity_curve import capacities
from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Row, groups
from exp.figures.style import COLOURS, new_figure, save

_TITLE_LETTERS = 80


def draw_capacity(rows: Sequence[Row], spec: ExperimentSpec, folder: Path) -> list[Path]:
    """A panel per engine and workload, a group of bars per SLO."""
    grouped = groups(rows)
    figure, axes = new_figure(len(grouped), 1, width=9.0, height=3.2)
    for each, ((engine, workload), group) in zip(axes, grouped.items(), strict=True):
        width = 0.8 / len(spec.slo_ttft_s)
        for place, slo_s in enumerate(spec.slo_ttft_s):
            found = capacities(group, "ttft_p99_s", slo_s)
            middles = np.arange(len(found)) + (place - (len(spec.slo_ttft_s) - 1) / 2) * width
            means = [capacity.rate_per_s.mean for capacity in found.values()]
            halves = np.nan_to_num([capacity.rate_per_s.half for capacity in found.values()])
            colour = COLOURS[place]
            each.bar(middles, means, width, yerr=halves, capsize=3, color=colour, label=f"SLO {slo_s:g} s")
            for middle, mean, capacity in zip(middles, means, found.values(), strict=True):
                text = f"{capacity.bound}{mean:.1f}"
                each.annotate(
                    text,
                    (middle, 0.0),
                    xytext=(0, 4),
                    textcoords="offset points",
                    ha="center",
                    color="white",
                    fontsize=7,
                    rotation=90 if len(spec.slo_ttft_s) > 1 else 0,
                )
            each.set_xticks(range(len(found)), list(found), rotation=20, ha="right")
        each.set_ylabel("capacity, requests/s")
        each.set_title(f"engine {engine}, workload {workload}; P99 TTFT within the SLO", fontsize=9)
        each.margins(y=0.1)
    axes[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    title = f"{spec.title}: capacity, bars with 95 % intervals over seeds"
    figure.suptitle(textwrap.fill(title, _TITLE_LETTERS))
    return save(figure, folder, "capacity")
