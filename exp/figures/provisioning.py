"""Provisioning: instances over time with the misses beneath, and GPU-hours against misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exp.experiment.summary import Interval
from exp.figures.style import COLOURS, MARKERS, new_figure, save
from exp.provisioning.run import Run

_BINS = 60
_DASHES = ("-", (0, (5, 2)), (0, (3, 1.5, 1, 1.5)), (0, (1, 1.2)), "-", "--", "-.", ":")


def draw_provisioning(runs: Sequence[Run], title: str, slo_ttft_s: float, folder: Path) -> list[Path]:
    """Two figures: over time (the first seed), and the trade (all seeds)."""
    loads = list(dict.fromkeys(run.load for run in runs))
    by_load = {load: [run for run in runs if run.load == load] for load in loads}
    return [*_over_time(by_load, title, slo_ttft_s, folder), *_trade(by_load, title, slo_ttft_s, folder)]


def _over_time(by_load: Mapping[str, list[Run]], title: str, slo_ttft_s: float, folder: Path) -> list[Path]:
    figure, axes = new_figure(2, len(by_load), width=5.5)
    for column, (load, runs) in enumerate(by_load.items()):
        above, below = axes[column], axes[len(by_load) + column]
        first = [run for run in runs if run.seed == runs[0].seed]
        last_s = max(run.sampled_s[-1] for run in first)
        edges_s = np.linspace(0.0, last_s, _BINS + 1)
        for place, run in enumerate(first):
            # Steps lie over each other for long: dashes of the later ones let the earlier ones through.
            look: dict[str, Any] = {
                "color": COLOURS[place],
                "ls": _DASHES[place],
                "lw": 2.0,
                "label": run.strategy,
            }
            above.step(run.sampled_s, run.instances, where="post", **look)
            missed, _ = np.histogram(run.miss_s, edges_s)
            below.step(edges_s[:-1], missed, where="post", **look)
        above.set_ylabel("instances")
        above.set_ylim(bottom=0)
        above.set_title(f"load {load}, seed {runs[0].seed}", fontsize=9)
        below.set_ylabel(f"misses per {last_s / _BINS:.0f} s")
        below.set_xlabel("time, s")
        for each in (above, below):
            each.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{title}: instances, and requests with TTFT above {slo_ttft_s:g} s by their arrival")
    return save(figure, folder, "provisioning-over-time")


def _trade(by_load: Mapping[str, list[Run]], title: str, slo_ttft_s: float, folder: Path) -> list[Path]:
    figure, axes = new_figure(1, len(by_load), width=4.5, height=3.9)
    for each, (load, runs) in zip(axes, by_load.items(), strict=True):
        for place, strategy in enumerate(dict.fromkeys(run.strategy for run in runs)):
            mine = [run for run in runs if run.strategy == strategy]
            hours = Interval.of([run.gpu_hours for run in mine])
            misses = Interval.of([100 * run.misses for run in mine])
            each.errorbar(
                hours.mean,
                misses.mean,
                xerr=np.nan_to_num(hours.half),
                yerr=np.nan_to_num(misses.half),
                color=COLOURS[place],
                marker=MARKERS[place],
                linestyle="none",
                capsize=3,
                label=strategy,
            )
        each.set_xlabel("GPU-hours")
        each.set_ylabel(f"requests with TTFT above {slo_ttft_s:g} s, %")
        each.set_title(f"load {load}, {len({run.seed for run in runs})} seeds", fontsize=9)
        each.grid(alpha=0.3)
        each.margins(0.1)
        # A margin beneath 0, so that those without misses are seen whole.
        each.set_ylim(bottom=-0.04 * each.get_ylim()[1])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{title}: what is paid, and what is missed (95 % intervals)", fontsize=10)
    return save(figure, folder, "provisioning-trade")
