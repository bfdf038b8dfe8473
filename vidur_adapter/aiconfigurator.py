"""aiconfigurator's kernel tables for vLLM: matrix products, attention and all-reduce of one GPU.

    <system>/system.yaml                                   datasheet figures
    <system>/vllm-<version>/gemm_perf.parquet              m (tokens), n, k, ms
    <system>/vllm-<version>/context_attention_perf.parquet     whole prompts
    <system>/vllm-<version>/generation_attention_perf.parquet  one new token each
    <system>/vllm-<version>/custom_allreduce_perf.parquet  elements, devices, ms

Of any model: its dimensions choose the rows. Not in it, and assumed from the datasheet: norms, rotary
embedding and activation, and an output layer wider than any product measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml

from block.errors import PackError
from block.latency.dimensions import ModelDimensions
from block.latency.least_squares import Floats
from block.latency.roofline import Gpu
from vidur_adapter.assumed import RooflineProduct, Streaming
from vidur_adapter.attention import SplitAttention
from vidur_adapter.grid import Grid
from vidur_adapter.model import Constants, OperatorModel, Part
from vidur_adapter.operator import Operator, Samples, Timings
from vidur_adapter.parquet_file import ParquetFile

_MS = 1e-3
_REDUCE_COLUMNS = ("message_size", "latency")
_ATTENTION_COLUMNS = ("batch_size", "isl", "step", "kernel_source", "latency")


@dataclass(frozen=True)
class KernelTables:
    """One system folder; products in ``precision``, attention's own arithmetic in bfloat16."""

    system: Path
    model: ModelDimensions
    devices: int = 1
    version: str = ""
    """Of vLLM; the newest there is if empty."""
    precision: str = "bfloat16"
    cache_precision: str = "bfloat16"
    """Of cached keys and values."""
    make: Callable[[Samples], Operator] = Grid

    def build(self, name: str, constants: Constants | None = None, captured_tokens: int = 0) -> OperatorModel:
        """Read all tables; raises PackError that names the file and what it lacks."""
        table = self._products_table
        parts = (*self._products(table), *self._small_kernels(), *self._collectives())
        return OperatorModel(
            name=name,
            parts=parts,
            attention=self.attention(),
            layers=self.model.layers,
            attention_note=f"{self._tables.name}: prompts and decodes apart, no unevenness",
            most_tokens=int(table.shapes[:, 2].max()),
            constants=constants or Constants(),
            captured_tokens=captured_tokens,
        )

    def attention(self) -> SplitAttention:
        """For this model's heads per device."""
        prompts = self._heads("context_attention_perf.parquet", ("batch_size", 1))
        decodes = self._heads("generation_attention_perf.parquet")
        whole = Samples.of(
            "prefill", ("prompt",), (prompts.numbers("isl"),), prompts.numbers("latency") * _MS
        )
        context = decodes.numbers("isl") + decodes.numbers("step")
        return SplitAttention(
            ContinuedPrompt(self.make(whole)),
            self.make(
                Samples.of(
                    "decode",
                    ("decodes", "context"),
                    (decodes.numbers("batch_size"), context),
                    decodes.numbers("latency") * _MS,
                )
            ),
        )

    @cached_property
    def gpu(self) -> Gpu:
        """The datasheet; raises PackError."""
        path = self.system / "system.yaml"
        try:
            raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))["gpu"]
            return Gpu(
                source=f"aiconfigurator {self.system.name}",
                memory_gb=raw["mem_capacity"] / 1e9,
                memory_bandwidth_gb_s=raw["mem_bw"] / 1e9,
                dense_tflops=raw["bfloat16_tc_flops"] / 1e12,
            )
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise PackError(f"{path}: no datasheet of a GPU ({error}); check the folder") from error

    @cached_property
    def _tables(self) -> Path:
        versions = sorted(self.system.glob("vllm-*"), key=_version)
        wanted = [path for path in versions if self.version in ("", path.name.removeprefix("vllm-"))]
        if not wanted:
            known = ", ".join(path.name for path in versions) or "none"
            raise PackError(f"{self.system}: no tables of vLLM {self.version}; has {known}")
        return wanted[-1]

    @property
    def _products_table(self) -> Samples:
        """All matrix products, whose model is not known."""
        axes = ("n", "k", "m")
        path = self._tables / "gemm_perf.parquet"
        file = ParquetFile.load(path, {"gemm_dtype": self.precision}, (*axes, "latency"))
        columns = tuple(file.numbers(axis) for axis in axes)
        return Samples.of("gemm", axes, columns, file.numbers("latency") * _MS)

    def _products(self, table: Samples) -> Iterator[Part]:
        """Those of this model; the table of all is not kept."""
        model, devices, note = self.model, self.devices, f"{self._tables.name}/gemm_perf.parquet"
        every = Grid(table)
        head = model.head_size
        products = {
            "qkv_proj": ((model.heads + 2 * model.kv_heads) * head / devices, model.hidden),
            "o_proj": (model.hidden, model.heads * head / devices),
            "gate_up_proj": (2 * model.intermediate / devices, model.hidden),
            "down_proj": (model.hidden, model.intermediate / devices),
        }
        for name, (outputs, inputs) in products.items():
            product = Product.of(name, every, (float(outputs), float(inputs)), self.make)
            yield Part(product, "tokens", model.layers, "measured", note)
        lm_head = RooflineProduct("lm_head", self.gpu, model.hidden, model.vocabulary / devices)
        yield Part(lm_head, "requests", 1, "assumed", "datasheet")

    def _small_kernels(self) -> Iterator[Part]:
        """Bytes per token of what only streams through memory, fused as vLLM fuses it."""
        model = self.model
        norms = 2 * 4 * model.hidden * 2.0
        rotary = 2 * (model.heads + model.kv_heads) * model.head_size * 2.0 / self.devices
        activation = 3 * model.intermediate * 2.0 / self.devices
        for name, size, kernels in (
            ("norms", norms, 2),
            ("rotary", rotary, 1),
            ("activation", activation, 1),
        ):
            yield Part(
                Streaming(name, self.gpu, size, kernels), "tokens", model.layers, "assumed", "datasheet"
            )

    def _collectives(self) -> Iterator[Part]:
        if self.devices == 1:
            return
        path = self._tables / "custom_allreduce_perf.parquet"
        file = ParquetFile.load(path, {"num_gpus": self.devices, "backend": "vllm_graph"}, _REDUCE_COLUMNS)
        samples = Samples.of(
            "all_reduce", ("elements",), (file.numbers("message_size"),), file.numbers("latency") * _MS
        )
        note = f"{self._tables.name}/{path.name}"
        times, elements = 2 * self.model.layers, float(self.model.hidden)
        yield Part(self.make(samples), "tokens", times, "measured", note, per_unit=elements)

    def _heads(self, name: str, *more: tuple[str, object]) -> ParquetFile:
        model = self.model
        wanted: dict[str, object] = {
            "num_heads": -(-model.heads // self.devices),
            "num_key_value_heads": -(-model.kv_heads // self.devices),
            "head_dim": model.head_size,
            "kv_cache_dtype": self.cache_precision,
            "window_size": 0,
            **dict(more),
        }
        file = ParquetFile.load(self._tables / name, wanted, _ATTENTION_COLUMNS)
        return file.most_frequent("kernel_source")


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product by tokens: the table of all, read off at its own size for every measured batch."""

    by_tokens: Operator
    samples: Samples
    covered: bool
    """Whether its size lies among those measured."""
    axes: tuple[str, ...] = ("tokens",)

    @classmethod
    def of(
        cls, name: str, every: Grid, size: tuple[float, float], make: Callable[[Samples], Operator]
    ) -> Self:
        """``size``: outputs and inputs; ``every`` is by (outputs, inputs, tokens)."""
        tokens = np.unique(every.samples.shapes[:, 2])
        timing = every.time(np.column_stack([np.broadcast_to(size, (len(tokens), 2)), tokens]))
        told = timing.covered if timing.covered.any() else np.ones(len(tokens), dtype=bool)
        samples = Samples.of(name, ("tokens",), (tokens[told],), timing.seconds[told])
        return cls(make(samples), samples, bool(timing.covered.any()))

    @property
    def name(self) -> str:
        """Of the layer."""
        return self.samples.name

    def time(self, shapes: Floats) -> Timings:
        """``shapes`` is (shapes, 1)."""
        return self.by_tokens.time(shapes).if_covered(np.full(len(shapes), self.covered))


@dataclass(frozen=True, slots=True)
class ContinuedPrompt:
    """A chunk after some tokens: the whole prompt up to its end, less what was before."""

    whole: Operator
    name: str = "prefill"
    axes: tuple[str, ...] = ("prefill_chunk", "kv_prefill")

    @property
    def samples(self) -> Samples | None:
        """Of whole prompts."""
        return getattr(self.whole, "samples", None)

    def time(self, shapes: Floats) -> Timings:
        """``shapes`` is (shapes, 2); never less than the chunk by itself."""
        chunk, before = shapes[:, 0], shapes[:, 1]
        alone, up_to_end = self.whole.time(chunk[:, None]), self.whole.time((chunk + before)[:, None])
        earlier = self.whole.time(before[:, None])
        more = np.where(before > 0, up_to_end.seconds - earlier.seconds, alone.seconds)
        return Timings.measured(np.maximum(more, alone.seconds), up_to_end.covered)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.name.removeprefix("vllm-").split(".") if part.isdigit())
