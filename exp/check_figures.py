"""Figures of an emulation check: errors by load, and latencies from idle to saturation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exp.check_result import CellResult
from exp.serving_metrics import ERROR_KEYS, MEASURES, ServingMetrics

_KINDS = (("real", "#222222", "-"), ("emulated", "#d1495b", "--"), ("virtual", "#00798c", ":"))


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
        ax.set_title(key.removesuffix("_err").replace("_", " ") + ", %", fontsize=9)
    axes[0].set_yticks(rows, [f"{result.model} {result.cell.name}" for result in results], fontsize=7)
    axes[0].invert_yaxis()
    figure.suptitle("Emulated against real (bars); two real runs apart (lines)", fontsize=10)
    return figure


def _latencies(results: Sequence[CellResult]) -> Any:
    from matplotlib.figure import Figure

    chosen = [result for result in results if result.cell.mix == "sharegpt"] or list(results)
    groups = sorted({(result.model, result.cell.burstiness) for result in chosen}, reverse=True)
    figure = Figure(figsize=(11, 2.4 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), len(MEASURES), squeeze=False)
    for row, (model, burstiness) in zip(axes, groups, strict=True):
        mine = [r for r in chosen if (r.model, r.cell.burstiness) == (model, burstiness)]
        for ax, measure in zip(row, MEASURES, strict=True):
            _curves(ax, sorted(mine, key=lambda result: result.cell.share), measure)
        row[0].set_ylabel(f"{model}\n{'Poisson' if burstiness == 1.0 else 'bursty'}", fontsize=8)
    for ax, measure in zip(axes[0], MEASURES, strict=True):
        ax.set_title(f"{measure.upper()}, ms: mean (thick), p99", fontsize=9)
    axes[0][0].legend(fontsize=7)
    for ax in axes[-1]:
        ax.set_xlabel("share of capacity", fontsize=8)
    return figure


def _curves(ax: Any, results: Sequence[CellResult], measure: str) -> None:
    shares = [result.cell.share for result in results]
    for kind, colour, style in _KINDS:
        means = [ServingMetrics.mean_of(getattr(result, kind)).spread(measure) for result in results]
        ax.plot(shares, [1e3 * m.mean for m in means], style, color=colour, linewidth=1.8, label=kind)
        ax.plot(shares, [1e3 * m.p99 for m in means], style, color=colour, linewidth=0.7)
    ax.set_yscale("log")
    ax.tick_params(labelsize=7)


def _no_date(suffix: str) -> dict[str, Any]:
    """The same figures give the same bytes."""
    return {"Date": None} if suffix == "svg" else {"Software": None}
