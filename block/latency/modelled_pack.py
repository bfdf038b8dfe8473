"""A pack worked out from a GPU's datasheet and a model's dimensions: marked as modelled, never measured.

Its steps are the roofline's seconds at shapes spread over what the engine's limits allow, without any
noise. What the roofline does not know, the pack does not know either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from block.latency.gpu_memory import MemoryUse, kv_cache_bytes
from block.latency.pack import PackHeader, StepPack
from block.latency.pack_builder import pack_of_steps
from block.latency.residuals import contexts_between, token_counts
from block.latency.roofline import RooflineLatency
from block.types import BatchShape, EngineLimits

_SEVERAL = (1, 2, 4, 8, 16, 32)
"""Prompts of a batch that decodes nothing."""


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
    """Decodes alone, prompts alone and both, at contexts from none to all that the KV cache holds.

    So close together that the oracle knows every region of shapes that the engine can come to.
    """
    budget = limits.max_num_batched_tokens
    sizes = {0, *token_counts(budget)}
    for decodes in sorted({*sizes, limits.max_num_seqs}):
        # A batch under load has prompt tokens for all that its decodes leave over.
        for chunk in sorted({*sizes, budget - decodes}):
            if 0 < decodes + chunk <= budget:
                for prompts in _prompts(decodes, chunk, limits):
                    yield from _at_contexts(decodes, chunk, prompts, limits)


def _prompts(decodes: int, chunk: int, limits: EngineLimits) -> Iterator[int]:
    """How many prompts ``chunk`` tokens may be of; a single token of one counts as a decode."""
    fewest, most = math.ceil(chunk / limits.max_model_len), min(chunk // 2, limits.max_num_seqs - decodes)
    if not chunk and decodes <= limits.max_num_seqs:
        yield 0
    for prompts in sorted({fewest, *(() if decodes else _SEVERAL)}):
        if 1 <= fewest <= prompts <= most:
            yield prompts


def _at_contexts(decodes: int, chunk: int, prompts: int, limits: EngineLimits) -> Iterator[BatchShape]:
    requests = decodes + prompts
    room = min(limits.total_blocks * limits.block_size, requests * limits.max_model_len)
    for context in contexts_between(decodes + chunk, room):
        own = min(limits.max_model_len, max(math.ceil(chunk / max(prompts, 1)), context // requests))
        yield BatchShape(chunk, decodes, context, chunk * own, requests)


def blocks_that_fit(latency: RooflineLatency, limits: EngineLimits) -> int:
    """KV blocks that the GPU has room for beside the model; raises ConfigError if it does not fit."""
    use = MemoryUse(latency.model, limits.max_num_seqs, limits.max_num_batched_tokens)
    token_bytes = latency.model.kv_values_per_token * latency.roofline.cache_bytes
    return int(kv_cache_bytes(latency.gpu, use) // (token_bytes * limits.block_size))
