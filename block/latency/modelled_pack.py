"""A pack worked out from a GPU's datasheet and a model's dimensions: marked as modelled, never measured.

Its steps are the roofline's seconds at shapes spread over what the engine's limits allow, without any
noise. What the roofline does not know, the pack does not know either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from block.latency.gpu_memory import MemoryUse, kv_cache_bytes
from block.latency.pack import PackHeader, StepPack
from block.latency.pack_builder import pack_of_steps
from block.latency.roofline import RooflineLatency
from block.types import BatchShape, EngineLimits

_CHUNKS = (2, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
_DECODES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
_SHARES = (0.0, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def modelled_pack(latency: RooflineLatency, limits: EngineLimits, name: str, created_at: str) -> StepPack:
    """Steps of every kind within ``limits``, whose ``total_blocks`` 0 asks for what the GPU has room for."""
    if not limits.total_blocks:
        limits = replace(limits, total_blocks=blocks_that_fit(latency, limits) - 1)
    header = PackHeader(
        model=latency.model,
        limits=limits,
        kv_blocks=limits.total_blocks + 1,
        model_name=name,
        dtype="float16" if latency.roofline.weight_bytes == 2 else "",
        device=latency.gpu.source.partition(" Tensor Core")[0].partition(" datasheet")[0],
        created_at=created_at,
        source="modelled",
        notes=f"roofline, not measured; GPU figures: {latency.gpu.source}",
    )
    return pack_of_steps(header, [(shape, latency.seconds(shape)) for shape in shapes_within(limits)])


def shapes_within(limits: EngineLimits) -> Iterator[BatchShape]:
    """Decodes alone, prompt chunks alone and both, at contexts from none to all that the KV cache holds."""
    room = limits.total_blocks * limits.block_size
    for decodes in sorted({*_DECODES, limits.max_num_seqs}):
        for chunk in sorted({0, *_CHUNKS, limits.max_num_batched_tokens}):
            tokens, requests = decodes + chunk, decodes + (chunk > 0)
            if 0 < tokens <= limits.max_num_batched_tokens and requests <= limits.max_num_seqs:
                yield from _at_contexts(decodes, chunk, min(room, requests * limits.max_model_len), limits)


def _at_contexts(decodes: int, chunk: int, room: int, limits: EngineLimits) -> Iterator[BatchShape]:
    tokens, seen = decodes + chunk, set()
    for share in _SHARES:
        context = max(tokens, round(share * room))
        own = min(limits.max_model_len, max(chunk, context // (decodes + 1))) if chunk else 0
        if context not in seen and context <= room:
            seen.add(context)
            yield BatchShape(chunk, decodes, context, chunk * own, decodes + (chunk > 0))


def blocks_that_fit(latency: RooflineLatency, limits: EngineLimits) -> int:
    """KV blocks that the GPU has room for beside the model; raises ConfigError if it does not fit."""
    use = MemoryUse(latency.model, limits.max_num_seqs, limits.max_num_batched_tokens)
    token_bytes = latency.model.kv_values_per_token * latency.roofline.cache_bytes
    return int(kv_cache_bytes(latency.gpu, use) // (token_bytes * limits.block_size))
