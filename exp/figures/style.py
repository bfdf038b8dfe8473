"""How all figures look: colours that colour-blind readers tell apart, markers beside them, PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from exp.experiment.summary import Interval

# Okabe and Ito's palette, without its yellow, which is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")


def new_figure(rows: int, columns: int, width: float = 4.0, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A grid of panels, without any window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    return figure, list(panels.flat)


def draw_curve(axes: Axes, place: int, label: str, points: Sequence[tuple[float, Interval]]) -> None:
    """A line with a marker per point and a band for the interval; ``place`` decides how it looks."""
    rates = np.array([rate for rate, _ in points])
    means = np.array([interval.mean for _, interval in points])
    halves = np.nan_to_num(np.array([interval.half for _, interval in points]))
    colour = COLOURS[place % len(COLOURS)]
    axes.plot(
        rates,
        means,
        color=colour,
        marker=MARKERS[place % len(MARKERS)],
        markersize=4,
        linestyle=DASHES[(place // len(COLOURS)) % len(DASHES)],
        label=label,
    )
    axes.fill_between(rates, np.maximum(means - halves, 0.0), means + halves, color=colour, alpha=0.15, lw=0)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """As PNG and as SVG; the same figure gives the same bytes."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png, dpi=110, metadata={"Software": None})
    with mpl.rc_context({"svg.hashsalt": "block", "svg.fonttype": "none"}):
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
