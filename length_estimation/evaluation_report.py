"""An evaluation for people: a table, and a figure of calibration and of errors by length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

from block.errors import ConfigError
from length_estimation.evaluation import Evaluation
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
_SHOWN: Final = ("history", "features", "features+recalibrated", "roberta", "roberta+recalibrated")
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
    """Write the figure; the file's name says the format. Raises ConfigError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--figure: needs matplotlib; install the 'experiments' extra") from error
    figure = Figure(figsize=(3.2 * len(evaluations) + 1.2, 6.4), layout="constrained")
    axes: Any = figure.subplots(2, len(evaluations), squeeze=False)
    for column, (name, evaluation) in enumerate(evaluations.items()):
        shown = {each: evaluation.answers[each] for each in _SHOWN if each in evaluation.answers}
        _draw_calibration(axes[0][column], name, shown)
        _draw_errors(axes[1][column], shown)
    axes[0][0].set_ylabel("share of responses below the quantile")
    axes[1][0].set_ylabel("mean absolute error, tokens")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_calibration(axis: Any, title: str, answers: Mapping[str, Answers]) -> None:
    axis.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    for name, said in answers.items():
        axis.plot(LEVELS, said.shares_reached(), marker=".", label=name)
    axis.set_title(title)
    axis.set_xlabel("quantile")


def _draw_errors(axis: Any, answers: Mapping[str, Answers]) -> None:
    """By equally large classes of the real length, of responses that ended."""
    for name, given in answers.items():
        said = given.take(~given.cut)
        order = np.argsort(said.truth, kind="stable")
        classes = np.array_split(order, _LENGTH_BINS)
        centres = [float(np.median(said.truth[rows])) for rows in classes]
        errors = [float(np.abs(said.truth - said.tokens[:, MIDDLE])[rows].mean()) for rows in classes]
        axis.plot(centres, errors, marker=".", label=name)
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(lambda _value, _place: "")
    axis.set_xlabel("real tokens (classes of equal size)")
