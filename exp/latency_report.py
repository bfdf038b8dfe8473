"""A GPU's step times for a model, for people: what they are made of, their form, a figure, a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from psutil import Process
from rich.table import Table

from block.latency.pack import StepPack
from block.types import BatchShape
from exp.figure_file import save_figure
from vidur_adapter.attention import MixedAttention, SplitAttention
from vidur_adapter.batch import StepBatch
from vidur_adapter.constants import fitted_constants
from vidur_adapter.estimators import ESTIMATORS, estimator, held_out_errors
from vidur_adapter.model import OperatorModel
from vidur_adapter.operator import Operator, Samples
from vidur_adapter.sources import Choice, operator_model
from vidur_adapter.tabulated import EngineRange, OperatorLatency, drawn_batches

_SHOWN = {
    "32 decodes of 1k": StepBatch((), (1024,) * 32),
    "128 decodes of 1k": StepBatch((), (1024,) * 128),
    "chunk of 512 and 32 decodes": StepBatch(((512, 0),), (1024,) * 32),
    "chunk of 2,048": StepBatch(((2048, 0),), ()),
}


@dataclass(frozen=True)
class LatencyReport:
    """One choice from the registry, tabulated."""

    choice: Choice
    model: OperatorModel
    table: OperatorLatency
    build_s: float
    build_mb: float
    """By which the process has grown, libraries that were loaded for it included."""

    @classmethod
    def build(cls, choice: Choice, source: str, engine: EngineRange, pack: StepPack | None = None) -> Self:
        """Read, fit constants to a pack's steps if there is one, tabulate, and note what that took.

        Raises PackError or ConfigError.
        """
        process = Process()
        before = process.memory_info().rss
        started_s = time.perf_counter()
        model = operator_model(choice, source)
        if pack is not None:
            model = replace(model, constants=fitted_constants(model, list(pack.shapes()), pack.duration_s))
        table = OperatorLatency.of(model, drawn_batches(engine))
        build_s = time.perf_counter() - started_s
        return cls(choice, model, table, build_s, (process.memory_info().rss - before) / 1e6)

    def tables(self) -> Iterator[Table]:
        """Parts of some steps in milliseconds, then the form."""
        parts = Table(
            "operator", "origin", "from", *_SHOWN, title=f"{self.model.name}: milliseconds per step"
        )
        columns = [self.model.shares(batch) for batch in _SHOWN.values()]
        for rows in zip(*columns, strict=True):
            name, _, origin, note = rows[0]
            parts.add_row(name, origin, note, *(f"{seconds * 1e3:.3f}" for _, seconds, _, _ in rows))
        totals = self.model.time(_SHOWN.values()).seconds
        parts.add_row("all", "", "", *(f"{seconds * 1e3:.2f}" for seconds in totals.tolist()))
        table = [self.table.seconds(batch.shape) for batch in _SHOWN.values()]
        parts.add_row("as a table", "", "", *(f"{seconds * 1e3:.2f}" for seconds in table))
        yield parts
        yield self._form()

    def summary(self) -> dict[str, Any]:
        """For the last line."""
        return {
            "model": self.model.name,
            "build_s": round(self.build_s, 2),
            "build_mb": round(self.build_mb, 1),
            "form_median_error": round(self.table.median_error, 4),
            "form_p90_error": round(self.table.p90_error, 4),
            "covered_share": round(self.table.covered_share, 4),
            "assumed_share": round(self.table.assumed_share, 4),
        }

    def file(self) -> str:
        """YAML of kind ``table``, as predictors and the emulated executor read it."""
        kernel = self.table.kernel
        origins = sorted({part.origin for part in self.model.parts})
        return yaml.safe_dump(
            {
                "kind": "table",
                "source": f"{self.model.name}: {', '.join(origins)} operators; "
                f"form off by {self.table.median_error:.1%} at the median",
                "tokens_ms": {
                    int(tokens): round(seconds * 1e3, 5)
                    for tokens, seconds in zip(kernel.token_knots, kernel.token_seconds, strict=True)
                },
                "per_context_token_us": kernel.per_context_token_s * 1e6,
                "per_prefill_product_ns": kernel.per_prefill_product_s * 1e9,
                "per_request_us": kernel.per_request_s * 1e6,
            },
            sort_keys=False,
        )

    def plot(self, path: Path) -> None:
        """Operators and form, over tokens and over context; a PNG or SVG file."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.5, 4), layout="constrained")
        chunks = [StepBatch(((float(tokens), 0.0),), ()) for tokens in np.geomspace(2, 2048, 60).round()]
        decodes = [StepBatch((), (context,) * 64) for context in np.geomspace(16, 8192, 60).round().tolist()]
        panels = (
            ("tokens of one prompt chunk", [batch.tokens for batch in chunks], chunks),
            ("context of 64 decodes", [batch.mean_context for batch in decodes], decodes),
        )
        for axes, (label, x, batches) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.plot(x, self.model.time(batches).seconds * 1e3, label="operators")
            axes.plot(
                x, [self.table.seconds(batch.shape) * 1e3 for batch in batches], "--", label="as a table"
            )
            axes.set(xlabel=label, ylabel="step (ms)", xscale="log", ylim=(0, None))
            axes.legend()
        figure.suptitle(self.model.name)
        save_figure(figure, path)

    def _form(self) -> Table:
        kernel = self.table.kernel
        table = Table("", "", title="as the simulation evaluates it", show_header=False)
        curve = zip(kernel.token_knots, kernel.token_seconds, strict=True)
        table.add_row("tokens -> ms", ", ".join(f"{tokens:g}: {s * 1e3:.2f}" for tokens, s in curve))
        table.add_row("per token of context", f"{kernel.per_context_token_s * 1e6:.4f} us")
        table.add_row("per pair of a prompt chunk", f"{kernel.per_prefill_product_s * 1e9:.4f} ns")
        table.add_row("per request", f"{kernel.per_request_s * 1e6:.2f} us")
        table.add_row(
            "off on unseen batches", f"{self.table.median_error:.1%} median, {self.table.p90_error:.1%} p90"
        )
        table.add_row("batches within the profile", f"{self.table.covered_share:.0%}")
        table.add_row("assumed of a batch's time", f"{self.table.assumed_share:.1%} on average")
        table.add_row("covers one decode", str(self.table.covers(BatchShape(0, 1, 16, 0, 1))))
        table.add_row("built in", f"{self.build_s:.1f} s, {self.build_mb:.0f} MB")
        return table


def estimator_errors(model: OperatorModel) -> dict[str, dict[str, float]]:
    """Operator -> estimator -> median error on shapes held out."""
    samples: dict[str, Samples] = {
        operator.name: each
        for operator in _measured(model)
        if (each := getattr(operator, "samples", None)) is not None
    }
    errors = [held_out_errors(list(samples.values()), estimator(name)) for name in ESTIMATORS]
    return {
        name: {each: round(error, 4) for each, error in zip(ESTIMATORS, row, strict=True)}
        for name, *row in zip(samples, *errors, strict=True)
    }


def estimator_table(errors: dict[str, dict[str, float]]) -> Table:
    """For people."""
    table = Table("operator", *ESTIMATORS, title="Median error on held-out shapes")
    for name, row in errors.items():
        table.add_row(name, *(f"{error:.1%}" for error in row.values()))
    return table


def _measured(model: OperatorModel) -> Iterator[Operator]:
    yield from (part.operator for part in model.parts)
    if isinstance(model.attention, MixedAttention):
        yield model.attention.table
    elif isinstance(model.attention, SplitAttention):
        yield from (model.attention.prefill, model.attention.decode)
