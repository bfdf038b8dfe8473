"""Step times without any profile: a GPU's datasheet against a model's dimensions.

A step reads all weights once and computes with them for each token, whichever takes longer; reads the
keys and values of the context; and computes the attention of prompt chunks. Datasheet figures are never
reached, so stated efficiencies scale them. It foresees no tile sizes, no clock limits and no collective
communication: one device, and an error of tens of per cent until calibration has seen real steps.

    kind: roofline
    gpu: ../gpus/a30.yaml                       # paths are relative to this file
    model: ../models/llama-2-7b/config.json
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from block.config import load_config
from block.latency.base import KernelLatency
from block.latency.dimensions import ModelDimensions
from block.settings import Settings
from block.types import BatchShape

_KNOTS = (1, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384)
# How sharply the two limits meet: measured kernels lie above both near their crossing.
_CROSSING = 2.0


class Gpu(Settings):
    """One device, as its datasheet describes it."""

    source: str = Field(min_length=1, description="Which datasheet.")
    memory_gb: float = Field(gt=0, description="Device memory, 10^9 bytes.")
    memory_bandwidth_gb_s: float = Field(gt=0, description="Peak, 10^9 bytes per second.")
    dense_tflops: float = Field(gt=0, description="Peak FP16/BF16 with FP32 accumulation, no sparsity.")


class Efficiency(Settings):
    """How much of the datasheet a serving engine reaches; defaults suit published A30..H100 profiles."""

    weights_bandwidth: float = Field(0.8, gt=0, le=1, description="Share of peak while reading weights.")
    cache_bandwidth: float = Field(0.75, gt=0, le=1, description="Share of peak while reading the KV cache.")
    compute: float = Field(0.66, gt=0, le=1, description="Share of peak in the linear layers.")
    attention_compute: float = Field(
        0.6,
        gt=0,
        le=1,
        description="Share of peak in prompt attention; above what is measured, as masked pairs count too.",
    )
    layer_overhead_us: float = Field(25.0, ge=0, description="Small kernels and launches, per layer.")
    step_overhead_ms: float = Field(1.0, ge=0, description="Sampling and the engine's own work, per step.")
    request_overhead_us: float = Field(5.0, ge=0, description="Input and output handling, per request.")


class Roofline(Settings):
    """The YAML file's fields."""

    kind: Literal["roofline"]
    gpu: Path = Field(description="A file of config/gpus, relative to this one.")
    model: Path = Field(description="The model's config.json, relative to this file.")
    weight_bytes: float = Field(2.0, gt=0, le=8, description="Bytes per weight.")
    cache_bytes: float = Field(2.0, gt=0, le=8, description="Bytes per cached key or value.")
    efficiency: Efficiency = Field(default_factory=Efficiency)


@dataclass(frozen=True)
class RooflineLatency:
    """A ``StepLatencyModel`` worked out from a GPU and a model."""

    name: str
    gpu: Gpu
    model: ModelDimensions
    roofline: Roofline

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file and the two it names; raises ConfigError."""
        roofline = load_config(path, Roofline)
        gpu = load_config(path.parent / roofline.gpu, Gpu)
        return cls(path.stem, gpu, ModelDimensions.load(path.parent / roofline.model), roofline)

    @property
    def version(self) -> str:
        """The file's name."""
        return self.name

    @cached_property
    def kernel(self) -> KernelLatency:
        """The roofline in the simulation's form."""
        efficiency, model = self.roofline.efficiency, self.model
        peak_bytes, peak_flop = self.gpu.memory_bandwidth_gb_s * 1e9, self.gpu.dense_tflops * 1e12
        return KernelLatency(
            token_knots=tuple(map(float, _KNOTS)),
            token_seconds=tuple(self._linear_seconds(tokens) for tokens in _KNOTS),
            per_context_token_s=model.kv_values_per_token
            * self.roofline.cache_bytes
            / (peak_bytes * efficiency.cache_bandwidth),
            per_prefill_product_s=model.attention_flop_per_pair / (peak_flop * efficiency.attention_compute),
            per_request_s=efficiency.request_overhead_us / 1e6
            + 2 * model.head_weights / (peak_flop * efficiency.compute),
        )

    def seconds(self, shape: BatchShape) -> float:
        """Duration of one step of this shape."""
        return self.kernel.seconds(shape)

    def covers(self, shape: BatchShape) -> bool:
        """Whether the token count lies within the curve."""
        return _KNOTS[0] <= shape.tokens <= _KNOTS[-1]

    def _linear_seconds(self, tokens: int) -> float:
        efficiency, model = self.roofline.efficiency, self.model
        weights = (model.layer_weights + model.head_weights) * self.roofline.weight_bytes
        reading = weights / (self.gpu.memory_bandwidth_gb_s * 1e9 * efficiency.weights_bandwidth)
        computing = 2 * model.layer_weights * tokens / (self.gpu.dense_tflops * 1e12 * efficiency.compute)
        around = model.layers * efficiency.layer_overhead_us / 1e6 + efficiency.step_overhead_ms / 1e3
        return around + float((reading**_CROSSING + computing**_CROSSING) ** (1 / _CROSSING))
