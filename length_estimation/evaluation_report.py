"""An evaluation for people: a table, and a figure of calibration and of errors by length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from length_estimation.evaluation import Evaluation
from length_estimation.out_file import check_figure
from length_estimation.quantiles import LEVELS
from length_estimation.scores import MIDDLE, Answers

_COLUMNS: Final = (
    ("mae", "MAE", "{:.1f}"),
    ("mae_over_mean", "MAE/mean", "{:.3f}"),
    ("r2_log", "R2 of log", "{:.3f}"),
    ("acc50", "within 50", "{:.3f}"),
    ("acc100", "within 100", "{:.3f}"),
    ("pinball", "pinball", "{:.2f}"),
    ("coverage80", "80 % covers", "{:.3f}"),
    ("kendall_tau", "Kendall tau", "{:.3f}"),
)
_SHOWN: Final = {
    "history": ("#000000", "s", ":"),
    "features": ("#E69F00", "^", "--"),
    "features+recalibrated": ("#0072B2", "o", "-"),
    "roberta": ("#CC79A7", "v", "--"),
    "roberta+recalibrated": ("#009E73", "D", "-"),
}
"""Colour (Okabe and Ito's, for all eyes), marker and line of each estimator in the figure."""
_TICKS: Final = [mantissa * 10**power for power in range(7) for mantissa in (1, 2, 5)]
_LENGTH_BINS: Final = 8


def report_table(name: str, evaluation: Evaluation) -> Table:
    """One row per estimator; pinball loss and coverage with their 95 % intervals."""
    cut = f", {evaluation.cut} of them cut at a limit" if evaluation.cut else ""
    table = Table(title=f"{name}: {evaluation.rows} judged{cut}; best: {evaluation.best}")
    table.add_column("estimator")
    for _, title, _ in _COLUMNS:
        table.add_column(title, justify="right")
    for estimator, scores in evaluation.scores.items():
        cells = []
        for field, _, form in _COLUMNS:
            text = form.format(getattr(scores, field))
            if evaluation.intervals and field in ("pinball", "coverage80"):
                text += " ({}-{})".format(*map(form.format, evaluation.intervals[estimator][field]))
            cells.append(text)
        table.add_row(estimator, *cells)
    return table


def draw(evaluations: Mapping[str, Evaluation], path: Path) -> None:
    """Write the figure; the file's name says the format. Raises ConfigError if that cannot be done."""
    check_figure(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(evaluations) + 1.2, 6.4), layout="constrained")
    axes: Any = figure.subplots(2, len(evaluations), squeeze=False)
    for column, (name, evaluation) in enumerate(evaluations.items()):
        shown = {each: evaluation.answers[each] for each in _SHOWN if each in evaluation.answers}
        _draw_calibration(axes[0][column], name, shown)
        _draw_errors(axes[1][column], shown)
    axes[0][0].set_ylabel("responses below a quantile,\nmore than it says, percentage points")
    axes[1][0].set_ylabel("mean absolute error, tokens")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_calibration(axis: Any, title: str, answers: Mapping[str, Answers]) -> None:
    axis.axhline(0, color="0.8", linewidth=1)
    for name, said in answers.items():
        axis.plot(LEVELS, 100 * (said.shares_reached() - np.array(LEVELS)), **_style(name))
    axis.set_ylim(*_widened(axis.get_ylim()))
    axis.set_title(title)
    axis.set_xlabel("quantile")


def _widened(limits: tuple[float, float]) -> tuple[float, float]:
    """So that a deviation of a point or two does not look like much."""
    return min(limits[0], -5.0), max(limits[1], 5.0)


def _style(name: str) -> dict[str, Any]:
    colour, marker, line = _SHOWN[name]
    return {"label": name, "color": colour, "marker": marker, "linestyle": line, "markersize": 4}


def _draw_errors(axis: Any, answers: Mapping[str, Answers]) -> None:
    """By equally large classes of the real length, of responses that ended."""
    for name, given in answers.items():
        said = given.take(~given.cut)
        order = np.argsort(said.truth, kind="stable")
        classes = np.array_split(order, _LENGTH_BINS)
        centres = [float(np.median(said.truth[rows])) for rows in classes]
        errors = [float(np.abs(said.truth - said.tokens[:, MIDDLE])[rows].mean()) for rows in classes]
        axis.plot(centres, errors, **_style(name))
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xticks([tick for tick in _TICKS if low <= tick <= high], minor=False)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.set_xticks([], minor=True)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("real tokens (classes of equal size)")
