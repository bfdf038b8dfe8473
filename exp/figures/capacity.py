"""Capacity per policy: the load at which P99 TTFT passes its SLO, with intervals, and the paper's."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

from exp.experiment.capacity_curve import Capacity, capacities
from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Row, groups
from exp.figures.style import COLOURS, MARKERS, new_figure, save, seeds_told

_TITLE_LETTERS = 90
_ROW_INCHES = 0.28
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def draw_capacity(rows: Sequence[Row], spec: ExperimentSpec, folder: Path) -> list[Path]:
    """A panel per engine and workload, a line per policy, a point on it per SLO."""
    grouped = groups(rows)
    height = 1.3 + _ROW_INCHES * len(spec.policies) * max(1, len(spec.slo_ttft_s)) ** 0.5
    figure, axes = new_figure(len(grouped), 1, width=9.0, height=height)
    for each, ((engine, workload), group) in zip(axes, grouped.items(), strict=True):
        policies = [name for name in spec.policies if name in {row.policy for row in group}]
        for place, slo_s in enumerate(spec.slo_ttft_s):
            paper = spec.published_qps.get(f"{engine}/{workload}/{slo_s:g}s", {})
            _draw_slo(each, place, spec, policies, capacities(group, "ttft_p99_s", slo_s), paper)
        each.set_yticks(range(len(policies)), policies)
        each.set_ylim(len(policies) - 0.5, -0.5)
        each.set_xlabel("capacity, requests/s")
        each.set_title(f"engine {engine}, workload {workload}", fontsize=9)
        each.margins(x=0.08)
        each.grid(alpha=0.3)
    figure.legend(handles=_legend(spec), loc="outside lower center", ncols=4, frameon=False)
    seeds = len({row.seed for row in rows})
    what = f"capacity: the load at which P99 TTFT passes the SLO ({seeds_told(seeds)})"
    figure.suptitle("\n".join((*textwrap.wrap(spec.title, _TITLE_LETTERS), what)), fontsize=11)
    return save(figure, folder, "capacity")


def _legend(spec: ExperimentSpec) -> list[Line2D]:
    from matplotlib.lines import Line2D

    slos = [
        Line2D([], [], color=COLOURS[place], marker=MARKERS[place], ls="none", label=f"SLO {slo_s:g} s")
        for place, slo_s in enumerate(spec.slo_ttft_s)
    ]
    ended = Line2D(
        [],
        [],
        color="black",
        marker="o",
        mfc="white",
        ls="none",
        label="some or all seeds beyond the rates run",
    )
    paper = Line2D([], [], color="#7F7F7F", marker="|", ms=11, mew=1.8, ls="none", label="the paper's")
    return [*slos, ended, *([paper] if spec.published_qps else [])]


def _draw_slo(
    axes: Axes,
    place: int,
    spec: ExperimentSpec,
    policies: Sequence[str],
    found: Mapping[str, Capacity],
    paper: Mapping[str, str],
) -> None:
    colour = COLOURS[place]
    aside = (place - (len(spec.slo_ttft_s) - 1) / 2) * 0.36
    for number, policy in enumerate(policies):
        one, at = found[policy], number + aside
        half = 0.0 if one.bound or math.isnan(one.rate_per_s.half) else one.rate_per_s.half
        axes.errorbar(
            [one.rate_per_s.mean],
            [at],
            xerr=[half] if half else None,
            color=colour,
            marker=MARKERS[place],
            linestyle="none",
            markerfacecolor="white" if one.bound else colour,
            capsize=3,
        )
        text = f"{one.bound}{one.rate_per_s.mean:.1f}".replace(">=", "≥").replace("<=", "≤")
        axes.annotate(
            text,
            (one.rate_per_s.mean + half, at),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
        if numbers := [float(number) for number in _NUMBER.findall(paper.get(policy, ""))]:
            axes.plot(
                [min(numbers), max(numbers)],
                [at, at],
                color=colour,
                marker="|",
                markersize=11,
                markeredgewidth=1.8,
                linewidth=1.2,
                alpha=0.55,
            )
