"""What is made of a run's folder: the summary's file, figures, a table for people, a line of JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from block.errors import ConfigError
from exp.experiment.capacity_curve import Capacity, capacities
from exp.experiment.run_folder import RunFolder
from exp.experiment.spec import ExperimentSpec
from exp.experiment.summary import Row, groups, summary_csv
from exp.figures import FIGURES

_FIGURE = "ttft_p99_s"


@dataclass(frozen=True, slots=True)
class Report:
    """Of the cells that are done."""

    spec: ExperimentSpec
    rows: tuple[Row, ...]
    missing: int
    """Cells that are not done yet."""
    figures: tuple[Path, ...]

    @classmethod
    def make(cls, folder: RunFolder, spec: ExperimentSpec) -> Report:
        """Read the cells, write the summary, draw the figures. Raises ConfigError for an unknown figure."""
        for name in spec.figures:
            if name not in FIGURES:
                raise ConfigError(f"figures: {name!r}: unknown; known here: {', '.join(FIGURES)}")
        cells = list(spec.cells())
        rows = tuple(Row.of(cell, folder.load(cell)) for cell in cells if folder.has(cell))
        (folder.path / "summary.csv").write_text(summary_csv(rows))
        drawn = (
            [file for name in spec.figures for file in FIGURES[name](rows, spec, folder.figures)]
            if rows
            else []
        )
        return cls(spec, rows, len(cells) - len(rows), tuple(drawn))

    def capacities(self) -> dict[tuple[str, str, float], dict[str, Capacity]]:
        """By engine, workload and SLO; then by policy."""
        return {
            (engine, workload, slo_s): capacities(rows, _FIGURE, slo_s)
            for (engine, workload), rows in groups(self.rows).items()
            for slo_s in self.spec.slo_ttft_s
        }

    def json(self, out: Path) -> dict[str, Any]:
        """``capacity_qps`` by policy is of the first engine, workload and SLO; the others stand beside it."""
        found = self.capacities()
        named = {_key(*place): _plain(by) for place, by in found.items()}
        return {
            "out": str(out),
            "figures": len(self.figures),
            "cells": len(self.rows),
            "missing": self.missing,
            "failed": int(sum(row.figures["failed"] for row in self.rows)),
            "capacity_qps": next(iter(named.values()), {}),
            "beyond_the_rates": sorted(
                f"{_key(*place)}/{policy} {capacity.bound}"
                for place, by in found.items()
                for policy, capacity in by.items()
                if capacity.bound
            ),
            "capacity_qps_by_setting": named,
        }


def capacity_table(report: Report) -> Table:
    """A row per policy, a column per engine, workload and SLO."""
    table = Table(title="capacity, requests/s: P99 TTFT within the SLO (95 % interval over seeds)")
    found = report.capacities()
    table.add_column("policy")
    for engine, workload, slo_s in found:
        table.add_column(f"{engine}\n{workload}\n{slo_s:g} s", justify="right")
    for policy in report.spec.policies:
        cells = [
            _shown(by.get(policy)) + _published(report.spec, _key(*place), policy)
            for place, by in found.items()
        ]
        table.add_row(policy, *cells)
    return table


def _key(engine: str, workload: str, slo_s: float) -> str:
    return f"{engine}/{workload}/{slo_s:g}s"


def _published(spec: ExperimentSpec, key: str, policy: str) -> str:
    value = spec.published_qps.get(key, {}).get(policy)
    return "" if value is None else f"\n(paper: {value})"


def _shown(capacity: Capacity | None) -> str:
    if capacity is None or math.isnan(capacity.rate_per_s.mean):
        return "-"
    # Where the grid ended there is no interval to tell.
    told = capacity.bound == "" and not math.isnan(capacity.rate_per_s.half)
    half = f" ± {capacity.rate_per_s.half:.2f}" if told else ""
    return f"{capacity.bound}{capacity.rate_per_s.mean:.2f}{half}"


def _plain(found: dict[str, Capacity]) -> dict[str, float | None]:
    return {
        policy: None if math.isnan(capacity.rate_per_s.mean) else round(capacity.rate_per_s.mean, 3)
        for policy, capacity in found.items()
    }
