"""Predicted against measured servers, for people: errors by GPU, model, engine and campaign, and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from block.latency.least_squares import Floats
from exp.figure_file import save_figure
from exp.silicon import Judged

_Group = tuple[str, ...]


@dataclass(frozen=True)
class SiliconReport:
    """Errors of all that could be judged."""

    judged: tuple[Judged, ...]
    left_out: Mapping[str, int]
    """Why the others could not, and how many."""

    def tables(self) -> Iterator[Table]:
        """Median absolute and signed errors by group, then what was left out."""
        table = Table(
            "GPU", "model", "weights", "engine", "measured by", "points", "TPOT |error|", "signed",
            "TTFT |error|", "signed", title="Predicted against measured, medians",
        )  # fmt: skip
        for key, group in sorted(self._groups().items()):
            errors = (_errors(group, "tpot_s"), _errors(group, "ttft_s"))
            cells = [
                f"{value:{sign}.1%}"
                for each in errors
                for value, sign in zip(_medians(each), " +", strict=True)
            ]
            table.add_row(*key, str(len(group)), *cells)
        yield table
        rest = Table("left out", "points")
        for why, count in sorted(self.left_out.items()):
            rest.add_row(why, f"{count:,}")
        rest.add_row("all", f"{sum(self.left_out.values()):,}")
        yield rest

    def summary(self) -> dict[str, float | int]:
        """Over all points, and over those of vLLM, whose kernels and scheduler these are."""
        own = [each for each in self.judged if each.point.backend == "vllm"]
        found: dict[str, float | int] = {
            "points": len(self.judged),
            "vllm_points": len(own),
            "left_out": sum(self.left_out.values()),
        }
        groups = [(name, group) for name, group in (("", list(self.judged)), ("vllm_", own)) if group]
        for name, group in groups:
            for metric in ("tpot", "ttft"):
                absolute, signed = _medians(_errors(group, f"{metric}_s"))
                found[f"{name}{metric}_median_abs_err"] = round(absolute, 4)
                found[f"{name}{metric}_median_err"] = round(signed, 4)
        return found

    def plot(self, path: Path) -> None:
        """Predicted over measured, by engine; a PNG or SVG file."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 4.4), layout="constrained")
        for axes, metric in zip(figure.subplots(1, 2), ("tpot_s", "ttft_s"), strict=True):
            for backend in sorted({each.point.backend for each in self.judged}, reverse=True):
                group = [each for each in self.judged if each.point.backend == backend]
                measured = [getattr(each.point, metric) * 1e3 for each in group]
                predicted = [getattr(each, metric) * 1e3 for each in group]
                axes.loglog(measured, predicted, ".", markersize=4, alpha=0.6, label=backend)
            ends = [*axes.get_xlim(), *axes.get_ylim()]
            axes.plot([min(ends), max(ends)], [min(ends), max(ends)], linewidth=0.8, color="grey")
            name = metric.removesuffix("_s").upper()
            axes.set(xlabel=f"measured {name} (ms)", ylabel=f"predicted {name} (ms)")
            axes.legend(markerscale=3)
        save_figure(figure, path)

    def _groups(self) -> dict[_Group, list[Judged]]:
        groups: dict[_Group, list[Judged]] = {}
        for each in self.judged:
            point = each.point
            key = (point.gpu, point.model, point.precision, point.backend, point.campaign.name)
            groups.setdefault(key, []).append(each)
        return groups


def _errors(group: list[Judged], metric: str) -> Floats:
    return np.array([getattr(each, metric) / getattr(each.point, metric) - 1 for each in group])


def _medians(errors: Floats) -> tuple[float, float]:
    """Of the absolute and of the signed errors."""
    return float(np.median(np.abs(errors))), float(np.median(errors))
