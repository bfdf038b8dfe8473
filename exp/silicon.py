"""Measured TTFT and TPOT of whole servers (aiconfigurator's collection) against operators and simulation.

Each point is so many users, all with the same prompt and response lengths. What the collection does not
say is assumed alike for all points: vLLM's defaults for a server on such a GPU. Nothing is tuned per point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from rich.table import Table

from block.config import load_config
from block.errors import ConfigError, PackError, StateError
from block.latency.dimensions import ModelDimensions
from block.latency.gpu_memory import MemoryUse, kv_cache_bytes
from block.latency.roofline import Gpu
from block.types import EngineLimits
from exp.closed_loop import ClosedLoop
from vidur_adapter.aiconfigurator import KernelTables
from vidur_adapter.model import OperatorModel
from vidur_adapter.sources import SYSTEMS
from vidur_adapter.table_file import TableFile
from vidur_adapter.tabulated import EngineRange, OperatorLatency, drawn_batches

CONFIG = Path(__file__).resolve().parent.parent / "config"
MODELS: Mapping[str, str] = {
    "Qwen/Qwen3-32B": "qwen3-32b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
}
"""The collection's dense models by our names; mixtures of experts have no kernel tables here."""
_PRECISIONS = {"": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block"}
_BATCHED_TOKENS = 8192
_BLOCK = 16
_DRAWN = 300


@dataclass(frozen=True, slots=True)
class Point:
    """One measured server."""

    gpu: str
    model: str
    backend: str
    precision: str
    devices: int
    users: int
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A point, and what was predicted of it."""

    point: Point
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Silicon:
    """The collection, and the kernel tables beside it."""

    folder: Path
    skipped: dict[str, int] = field(default_factory=dict)
    """Why points were left out, and how many."""

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """Those on GPUs and models that there are tables for."""
        return tuple(self._points())

    def judged(self) -> Iterator[Judged]:
        """All points that can be predicted, in the file's order."""
        for point in self.points:
            try:
                yield self._judge(point)
            except (PackError, ConfigError, StateError) as error:
                self._skip(str(error).partition(":")[0])

    def _points(self) -> Iterator[Point]:
        table = TableFile.load(self.folder / "silicon_sample_agg.csv", ("system", "model_path"))
        gpus = {system: gpu for gpu, system in SYSTEMS.items()}
        numbers = zip(
            *(
                table.numbers(name).tolist()
                for name in ("tp_size", "batch_size", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms")
            ),
            strict=True,
        )
        texts = zip(
            *(table.texts(n) for n in ("system", "model_path", "backend", "gemm_quant_mode")), strict=True
        )
        for (system, model, backend, precision), row in zip(texts, numbers, strict=True):
            if system not in gpus or model not in MODELS:
                self._skip("no kernel tables of that GPU or model")
                continue
            devices, users, prompt, output, ttft_ms, tpot_ms = row
            if not np.isfinite(row).all() or min(ttft_ms, tpot_ms) <= 0 or output < 2:
                self._skip("incomplete")
                continue
            counts = (int(devices), int(users), int(prompt), int(output))
            yield Point(
                gpus[system],
                MODELS[model],
                backend,
                _PRECISIONS[precision],
                *counts,
                ttft_ms / 1e3,
                tpot_ms / 1e3,
            )

    def _skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1

    def _judge(self, point: Point) -> Judged:
        model = _operators(self.folder, point.gpu, point.model, point.precision, point.devices)
        longest = point.prompt_tokens + point.output_tokens
        engine = EngineRange(
            point.users, _BATCHED_TOKENS, (point.prompt_tokens, longest), context_spread=0.05
        )
        table = OperatorLatency.of(model, drawn_batches(engine, count=_DRAWN))
        limits = replace(_limits(point), max_model_len=longest + 1)
        loop = ClosedLoop.of(limits, table.kernel, point.users, (point.prompt_tokens, point.output_tokens))
        return Judged(point, loop.ttft_s, loop.tpot_s)


@cache
def _operators(folder: Path, gpu: str, model: str, precision: str, devices: int) -> OperatorModel:
    tables = KernelTables(folder / SYSTEMS[gpu], _dimensions(model), devices, precision=precision)
    return tables.build(f"{gpu}-{model}-{precision}-tp{devices}", captured_tokens=512)


@cache
def _dimensions(model: str) -> ModelDimensions:
    return ModelDimensions.load(CONFIG / "models" / model / "config.json")


def _limits(point: Point) -> EngineLimits:
    model = _dimensions(point.model)
    value_bytes = 2 if point.precision == "bfloat16" else 1
    use = MemoryUse(model, point.users, _BATCHED_TOKENS, value_bytes=value_bytes, devices=point.devices)
    free = kv_cache_bytes(load_config(CONFIG / "gpus" / f"{point.gpu}.yaml", Gpu), use) * point.devices
    blocks = int(free // (2 * model.kv_values_per_token * _BLOCK))
    return EngineLimits(_BLOCK, blocks, point.users, _BATCHED_TOKENS, 1, async_scheduling=True)


@dataclass(frozen=True)
class SiliconReport:
    """Errors by GPU, model and engine."""

    judged: tuple[Judged, ...]

    def table(self) -> Table:
        """Median absolute and signed errors."""
        table = Table(
            "GPU", "model", "engine", "points", "TPOT |error|", "signed", "TTFT |error|", "signed",
            title="Predicted against measured, medians",
        )  # fmt: skip
        for (gpu, model, backend), group in sorted(self._groups().items()):
            errors = (_errors(group, "tpot_s"), _errors(group, "ttft_s"))
            cells = [
                f"{value:{sign}.1%}"
                for each in errors
                for value, sign in zip(_medians(each), " +", strict=True)
            ]
            table.add_row(gpu, model, backend, str(len(group)), *cells)
        return table

    def summary(self) -> dict[str, float | int]:
        """Over all points, and over those of vLLM, whose kernels the tables hold."""
        own = [each for each in self.judged if each.point.backend == "vllm"]
        found: dict[str, float | int] = {"points": len(self.judged), "vllm_points": len(own)}
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
            for backend in sorted({each.point.backend for each in self.judged}):
                group = [each for each in self.judged if each.point.backend == backend]
                measured = [getattr(each.point, metric) * 1e3 for each in group]
                predicted = [getattr(each, metric) * 1e3 for each in group]
                axes.loglog(measured, predicted, ".", markersize=4, alpha=0.6, label=backend)
            low, high = axes.get_xlim()
            axes.plot([low, high], [low, high], linewidth=0.8, color="grey")
            name = metric.removesuffix("_s").upper()
            axes.set(xlabel=f"measured {name} (ms)", ylabel=f"predicted {name} (ms)")
            axes.legend(markerscale=3)
        figure.savefig(path, dpi=110)

    def _groups(self) -> dict[tuple[str, str, str], list[Judged]]:
        groups: dict[tuple[str, str, str], list[Judged]] = {}
        for each in self.judged:
            groups.setdefault((each.point.gpu, each.point.model, each.point.backend), []).append(each)
        return groups


def _errors(group: list[Judged], metric: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([getattr(each, metric) / getattr(each.point, metric) - 1 for each in group])


def _medians(errors: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Of the absolute and of the signed errors."""
    return float(np.median(np.abs(errors))), float(np.median(errors))
