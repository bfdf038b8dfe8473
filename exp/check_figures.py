"""Figures of an emulation check: errors by load, and latencies from idle to saturation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from exp.check_result import CellResult
from exp.serving_metrics import ERROR_KEYS, MEASURES, Spread

_KINDS = (
    ("real", "#222222", "-", "o", -0.012),
    ("emulated", "#d1495b", "--", "s", 0.0),
    ("virtual", "#00798c", ":", "^", 0.012),
)
"""Of runs: name, colour, line, marker, and how far aside they are drawn, in shares of the capacity."""

_TITLES = {key: key.removesuffix("_mean_err").upper() + " mean" for key in ERROR_KEYS} | {
    "throughput_err": "throughput"
}


def draw(results: Sequence[CellResult], folder: Path) -> list[Path]:
    """Each figure as SVG and PNG; returns the SVG files."""
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"emulation-errors": _errors(results), "emulation-latencies": _latencies(results)}
    for name, figure in figures.items():
        for suffix in ("svg", "png"):
            figure.savefig(folder / f"{name}.{suffix}", dpi=120, metadata=_no_date(suffix))
    return [folder / f"{name}.svg" for name in figures]


def _errors(results: Sequence[CellResult]) -> Any:
    """A bar for each cell, and its noise floor as a line on both sides."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.2 + 0.28 * len(results)), layout="constrained")
    axes = figure.subplots(1, len(ERROR_KEYS), sharey=True)
    rows = range(len(results))
    for ax, key in zip(axes, ERROR_KEYS, strict=True):
        ax.barh(rows, [100 * result.errors[key] for result in results], color="#d1495b", height=0.6)
        floors = [100 * abs(result.floor[key]) for result in results]
        ax.errorbar([0] * len(results), rows, xerr=floors, fmt="none", ecolor="#222222", elinewidth=1)
        ax.axvline(0, color="#888888", linewidth=0.5)
        ax.set_title(f"{_TITLES[key]}, %", fontsize=9)
        ax.grid(axis="x", color="#dddddd", linewidth=0.5)
        ax.set_axisbelow(True)
    axes[0].set_yticks(rows, [f"{result.model} {result.cell.name}" for result in results], fontsize=7)
    axes[0].invert_yaxis()
    figure.suptitle(
        "Bars: emulated against real. Lines: every second real run against the others, on both sides",
        fontsize=10,
    )
    return figure


def _latencies(results: Sequence[CellResult]) -> Any:
    from matplotlib.figure import Figure

    chosen = [result for result in results if result.cell.mix == "sharegpt"] or list(results)
    groups = sorted({(result.model, result.cell.burstiness) for result in chosen}, reverse=True)
    figure = Figure(figsize=(11, 2.4 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), len(MEASURES), squeeze=False, sharex=True)
    axes[0][0].set_xlim(0.0, 1.05 * max(result.cell.share for result in chosen))
    for row, (model, burstiness) in zip(axes, groups, strict=True):
        mine = [r for r in chosen if (r.model, r.cell.burstiness) == (model, burstiness)]
        for ax, measure in zip(row, MEASURES, strict=True):
            _curves(ax, sorted(mine, key=lambda result: result.cell.share), measure)
        row[0].set_ylabel(f"{model}\n{'Poisson' if burstiness == 1.0 else 'bursty'}", fontsize=8)
    for ax, measure in zip(axes[0], MEASURES, strict=True):
        ax.set_title(f"{measure.upper()}, ms", fontsize=9)
    figure.suptitle("Thick: mean, and the range of the runs' means. Thin: p99", fontsize=10)
    axes[0][0].legend(fontsize=7)
    for ax in axes[-1]:
        ax.set_xlabel("share of capacity", fontsize=8)
    return figure


def _curves(ax: Any, results: Sequence[CellResult], measure: str) -> None:
    for kind, colour, style, marker, aside in _KINDS:
        shares = [result.cell.share + aside for result in results]
        runs = [[run.spread(measure) for run in getattr(result, kind)] for result in results]
        p99_ms = [1e3 * fmean(spread.p99 for spread in spreads) for spreads in runs]
        look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 3}
        ax.errorbar(shares, *_mean_and_range_ms(runs), **look, linewidth=1.8, elinewidth=1, label=kind)
        ax.plot(shares, p99_ms, **look, linewidth=0.7)
    ax.set_yscale("log")
    _plain_numbers(ax.yaxis)
    ax.tick_params(labelsize=7, which="both")
    ax.grid(axis="y", color="#dddddd", linewidth=0.5, which="both")


def _mean_and_range_ms(runs: Sequence[Sequence[Spread]]) -> tuple[list[float], list[list[float]]]:
    """Of each load: the mean of its runs' means, and how far the lowest and the highest lie from it."""
    means_ms = [[1e3 * spread.mean for spread in spreads] for spreads in runs]
    middle_ms = [fmean(each) for each in means_ms]
    below_ms = [middle - min(each) for middle, each in zip(middle_ms, means_ms, strict=True)]
    above_ms = [max(each) - middle for middle, each in zip(middle_ms, means_ms, strict=True)]
    return middle_ms, [below_ms, above_ms]


def _plain_numbers(axis: Any) -> None:
    """20 and 50, not 2 x 10^1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _no_date(suffix: str) -> dict[str, Any]:
    """The same figures give the same bytes."""
    return {"Date": None} if suffix == "svg" else {"Software": None}
