"""What a pack holds, for people: its header, its columns, and how its oracle takes to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from block.latency.least_squares import Floats
from block.latency.oracle import StepOracle
from block.latency.pack import StepPack
from exp.figure_file import save_figure

_PERCENTILES = (1, 50, 99, 100)
_COLOURS = ("#0072b2", "#e69f00")
"""Told apart by everybody."""


@dataclass(frozen=True)
class PackReport:
    """A pack and the oracle made from it."""

    pack: StepPack
    oracle: StepOracle

    @classmethod
    def of(cls, pack: StepPack) -> PackReport:
        """Raises PackError if there are too few steps to say anything."""
        return cls(pack, StepOracle(pack, seed=0))

    def header_table(self) -> Table:
        """What was run, where, and how."""
        table = Table("header", "", show_header=False)
        for name, value in self._facts():
            table.add_row(name, value)
        return table

    def column_table(self) -> Table:
        """Percentiles of what was recorded."""
        table = Table("column", *(f"p{level}" for level in _PERCENTILES), title=f"{len(self.pack)} steps")
        for name, values in self._columns():
            told = values[np.isfinite(values)]
            cells = np.percentile(told, _PERCENTILES) if len(told) else []
            table.add_row(name, *([f"{value:.4g}" for value in cells] or ["-"] * len(_PERCENTILES)))
        return table

    def summary(self) -> dict[str, Any]:
        """The figures that tell how well the oracle fits."""
        header, memory = self.pack.header, self.oracle.memory
        means = np.array([self.oracle.mean(shape).seconds for shape in self.pack.shapes()])
        off = np.abs(means / np.maximum(self.pack.duration_s, 1e-9) - 1.0)
        return {
            "steps": len(self.pack),
            "source": header.source,
            "model": header.model_name,
            "device": header.device,
            "kv_blocks": header.kv_blocks,
            "mean_ratio": round(float(means.sum() / self.pack.duration_s.sum()), 5),
            "median_error": round(float(np.median(off)), 5),
            "p90_error": round(float(np.quantile(off, 0.9)), 5),
            "host_ms_p50": _median_ms(self.pack.host_s),
            "memory_share": round(memory.share, 3),
            "memory_persistence": memory.persistence,
        }

    def plot(self, path: Path) -> None:
        """Durations against tokens and context, beside what the oracle samples; a PNG or SVG file."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogFormatter

        figure = Figure(figsize=(11, 4.5), layout="constrained")
        shapes, sampled = self.pack.shape_array, [self.oracle.sample(shape) for shape in self.pack.shapes()]
        both_ms = np.stack([self.pack.duration_s, [sample.seconds for sample in sampled]]) * 1e3
        decodes_only = shapes[:, 0] == shapes[:, 4]
        panels = (
            ("scheduled tokens", shapes[:, 0], np.full(len(shapes), True)),
            ("context tokens of decode-only steps", shapes[:, 1], decodes_only),
        )
        for axes, (label, x, rows) in zip(figure.subplots(1, 2), panels, strict=True):
            self._scatter(axes, x[rows], both_ms[:, rows])
            axes.set(xlabel=label, ylabel="step duration (ms)", yscale="log")
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
            axes.yaxis.set_major_formatter(LogFormatter())
        header = self.pack.header
        figure.suptitle(f"{header.model_name} on {header.device or 'unknown device'} ({header.source})")
        save_figure(figure, path)

    def _scatter(self, axes: Any, x: Floats, both_ms: Floats) -> None:
        """What was recorded and what is sampled, in an order by chance, so that neither hides the other."""
        order = np.random.default_rng(0).permutation(both_ms.size)
        colours = np.repeat(_COLOURS, len(x))[order]
        axes.scatter(
            np.tile(x, 2)[order], both_ms.reshape(-1)[order], s=4, c=colours, alpha=0.5, linewidths=0
        )
        origin = "recorded" if self.pack.header.source == "measured" else self.pack.header.source
        for name, colour in zip((origin, "sampled"), _COLOURS, strict=True):
            axes.scatter([], [], s=25, c=colour, label=name)
        axes.legend()

    def _facts(self) -> Iterator[tuple[str, str]]:
        header = self.pack.header
        for name in ("source", "model_name", "model", "device", "executor", "vllm_version", "dtype"):
            yield name, str(getattr(header, name) or "unknown")
        yield "limits", str(header.limits)
        yield "kv_blocks", str(header.kv_blocks or "unknown")
        yield "parallel", f"tensor {header.tensor_parallel}, pipeline {header.pipeline_parallel}"
        yield (
            "flags",
            ", ".join(f"{name}={value or 'none'}" for name, value in header.flags.items()) or "none told",
        )
        yield "created_at", header.created_at or "unknown"
        yield "notes", header.notes or "-"

    def _columns(self) -> Iterator[tuple[str, Any]]:
        pack = self.pack
        yield "duration (ms)", pack.duration_s * 1e3
        yield "host (ms)", pack.host_s * 1e3
        for name in ("prefill_tokens", "decode_tokens", "context_tokens", "requests"):
            yield name, getattr(pack, name).astype(float)


def _median_ms(seconds: Any) -> float | None:
    told = seconds[np.isfinite(seconds)]
    return round(float(np.median(told)) * 1e3, 4) if len(told) else None
