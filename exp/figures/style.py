"""How all figures look: colours that colour-blind readers tell apart, markers beside them, PNG and SVG."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from exp.experiment.summary import Interval

# Okabe and Ito's palette, without its yellow, which is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
# One more than colours, so that a colour that comes again has another marker.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DODGE = 0.006
"""Of the axis, between the whiskers of neighbouring curves, so that they do not hide each other."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one policy is drawn."""

    colour: str
    marker: str
    ours: bool
    """Solid with filled markers; others are dashed with open ones."""
    shift: float
    """Of its whiskers, as a share of the axis."""

    @property
    def line(self) -> dict[str, Any]:
        """As Axes.plot takes it."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": 4.5,
            "markerfacecolor": self.colour if self.ours else "white",
            "linestyle": "-" if self.ours else (0, (4, 2)),
            "linewidth": 1.6 if self.ours else 1.1,
        }


def looks(policies: Sequence[str], ours: Collection[str]) -> dict[str, Look]:
    """By policy: ours and the others each take colours and markers from the first on."""
    seen = {True: 0, False: 0}
    found = {}
    for number, policy in enumerate(policies):
        mine = policy in ours
        place = seen[mine]
        seen[mine] += 1
        shift = _DODGE * (number - (len(policies) - 1) / 2)
        found[policy] = Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], mine, shift)
    return found


def new_figure(rows: int, columns: int, width: float = 4.0, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A grid of panels, without any window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    return figure, list(panels.flat)


def draw_curve(axes: Axes, look: Look, label: str, points: Sequence[tuple[float, Interval]]) -> None:
    """A line with a marker per point and, where there are intervals, whiskers.

    Bands of ten policies would lie over each other; whiskers stand side by side.
    """
    rates = np.array([rate for rate, _ in points])
    means = np.array([interval.mean for _, interval in points])
    halves = np.array([interval.half for _, interval in points])
    axes.plot(rates, means, label=label, **look.line)
    told = ~np.isnan(halves) & ~np.isnan(means)
    if told.any():
        beside = rates + look.shift * float(np.ptp(rates))
        lower = np.minimum(halves, means)
        axes.errorbar(
            beside[told],
            means[told],
            yerr=np.array([lower[told], halves[told]]),
            fmt="none",
            ecolor=look.colour,
            elinewidth=0.7,
            capsize=1.5,
            alpha=0.55,
        )


def plain_log_ticks(axes: Axes) -> None:
    """A logarithmic axis in plain numbers, at 1, 2 and 5 of each decade or, over many, at 1 alone."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    few = high / low < 300
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def seeds_told(seeds: int) -> str:
    """What a figure's title says of its intervals."""
    return f"mean of {seeds} seeds, 95\u00a0% intervals" if seeds > 1 else "one seed, no intervals"


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """As PNG and as SVG; the same figure gives the same bytes."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png, dpi=110, metadata={"Software": None})
    with mpl.rc_context({"svg.hashsalt": "block", "svg.fonttype": "none"}):
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
