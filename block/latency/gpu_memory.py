"""How much KV cache a GPU has room for, from its datasheet and a model's dimensions.

An estimate: nothing is loaded and nothing profiled. Published set-ups (Llama-2-7B and Qwen2-7B on an A30)
come out within a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

from block.errors import ConfigError
from block.latency.dimensions import ModelDimensions
from block.latency.roofline import Gpu

_GIB = 2**30
# Vendors' gigabytes of device memory are binary; firmware and error correction keep a little.
_USABLE = 0.985
# Context, workspaces and collective buffers, beside weights and activations.
_RUNTIME_BYTES = 0.4e9
_LOGIT_BYTES = 8


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What bears on memory, in vLLM's terms."""

    model: ModelDimensions
    max_num_seqs: int
    max_num_batched_tokens: int
    utilization: float = 0.9
    """vLLM's ``--gpu-memory-utilization``."""
    value_bytes: int = 2
    """Bytes per weight and activation."""
    tied_embeddings: bool = False
    devices: int = 1
    """That the weights are divided among."""

    @property
    def weight_bytes(self) -> float:
        """On each device."""
        embeddings = self.model.head_weights * (1 if self.tied_embeddings else 2)
        return (self.model.layer_weights + embeddings) * self.value_bytes / self.devices

    @property
    def activation_bytes(self) -> float:
        """Of vLLM's profiling run: a full batch through one layer, and the logits of all its requests."""
        layer = self.max_num_batched_tokens * (2 * self.model.intermediate + 6 * self.model.hidden)
        return layer * self.value_bytes + self.max_num_seqs * self.model.vocabulary * _LOGIT_BYTES


def kv_cache_bytes(gpu: Gpu, use: MemoryUse) -> int:
    """Bytes for the KV cache on each device; raises ConfigError if the model does not fit."""
    usable = gpu.memory_gb * _GIB * _USABLE * use.utilization
    free = usable - use.weight_bytes - use.activation_bytes - _RUNTIME_BYTES
    if free <= 0:
        raise ConfigError(
            f"KV cache size: a GPU of {gpu.memory_gb:g} GB has no room beside the model's weights"
            f" ({use.weight_bytes / 1e9:.1f} GB); take a larger GPU or more --tensor-parallel-size"
        )
    return int(free)
