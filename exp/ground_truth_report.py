"""Simulated against recorded, for people: tables of errors and a figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
from rich.table import Table

from exp.figure_file import save_figure
from exp.ground_truth_run import GroundTruth, Simulated
from exp.latency_errors import METRICS, STATISTICS


@dataclass(frozen=True)
class GroundTruthReport:
    """One run, told variant by variant as they come."""

    truth: GroundTruth

    def summary_line(self, first: Simulated) -> str:
        """What was run, on how many engines, and how much of it the profile covers."""
        run = self.truth.run
        flags = run.meta.engine_kwargs
        return (
            f"{run.meta.model}, vLLM {run.meta.vllm_version}, tensor parallel {flags.tensor_parallel_size}, "
            f"{self.truth.engines} engine(s): {len(run.requests)} requests, {first.steps} steps simulated in "
            f"{first.wall_s:.2f} s; {first.covered_share:.1%} of the steps lie within the profile, "
            f"{first.assumed_share:.1%} of their time is assumed"
        )

    def table(self, variant: Simulated) -> Table:
        """Recorded value and signed error of each statistic, errors of single requests."""
        constants = variant.constants
        fitted = f"{constants.step_s * 1e6:+.0f} us per step, unevenness x {constants.unevenness:.2f}"
        title = f"{variant.name} ({fitted}), judged on {variant.judged}"
        table = Table("", *STATISTICS, "single requests: p50", "p90", title=title)
        for metric in METRICS:
            table.add_row(metric, *self._row(variant, metric))
        return table

    def _row(self, variant: Simulated, metric: str) -> Iterator[str]:
        errors = variant.errors
        for statistic in STATISTICS:
            recorded_ms = errors.recorded.statistic(metric, statistic) * 1e3
            relative = errors.relative(metric, statistic)
            off_ms = errors.simulated.statistic(metric, statistic) * 1e3 - recorded_ms
            off = f"{off_ms:+.1f} ms" if isnan(relative) else f"{relative:+.1%}"
            yield f"{recorded_ms:,.1f} ms {off}"
        for level in (50, 90):
            error = errors.per_request(metric, level)
            yield "-" if isnan(error) else f"{error:.1%}"

    def plot(self, first: Simulated, path: Path) -> None:
        """Single requests, simulated over recorded; a PNG or SVG file."""
        from matplotlib.figure import Figure

        errors = first.errors
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        for axes, metric in zip(figure.subplots(1, 3), ("ttft", "tpot", "e2e"), strict=True):
            recorded, simulated = errors.recorded.values[metric], errors.simulated.values[metric]
            axes.plot(recorded, simulated, ".", markersize=4, alpha=0.6)
            ends = [0.0, float(np.nanmax([recorded, simulated]))]
            axes.plot(ends, ends, linewidth=0.8, color="grey")
            axes.set(xlabel=f"recorded {metric.upper()} (s)", ylabel="simulated (s)")
        run = self.truth.run.meta
        figure.suptitle(f"{run.model}, vLLM {run.vllm_version}: nothing fitted")
        save_figure(figure, path)
