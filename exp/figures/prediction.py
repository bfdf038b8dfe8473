"""How right predictions are over load, and how often truly the best instance was chosen (figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Interval, Row, curves, groups
from exp.figures.style import draw_curve, looks, new_figure, save, seeds_told

_PANELS = (
    ("prediction_error", "median error of predicted E2E, %"),
    ("best_share", "truly best chosen, %"),
)


def draw_prediction(rows: Sequence[Row], spec: ExperimentSpec, folder: Path) -> list[Path]:
    """One figure per engine and workload."""
    files = []
    for (engine, workload), group in groups(rows).items():
        figure, axes = new_figure(1, 2, width=4.5, height=3.4)
        drawn = looks(list(spec.policies), spec.ours)
        for each, (measure, label) in zip(axes, _PANELS, strict=True):
            for policy, points in curves(group, measure).items():
                percent = [(rate, Interval(i.mean * 100, i.half * 100)) for rate, i in points]
                draw_curve(each, drawn[policy], policy, percent)
            each.set_xlabel("load, requests/s")
            each.set_ylabel(label)
            each.set_ylim(bottom=0)
            each.grid(alpha=0.3)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        seeds = len({row.seed for row in group})
        figure.suptitle(
            f"{spec.title}: engine {engine}, workload {workload}\n({seeds_told(seeds)})", fontsize=10
        )
        files += save(figure, folder, f"prediction-{engine}-{workload}")
    return files
