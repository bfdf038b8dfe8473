"""Slices of recorded traces on random engines, for the judge of fidelity; none without the data folder.

ShareGPT lengths and Azure conversations give lengths and arrivals, Mooncake's conversations also the
hashes of their prompt blocks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from block.simulation.engine import SimulatedRequest
from block.types import EngineLimits
from exp.random_engine import JudgedWorkload, random_limits
from exp.workload import HASH_TOKENS, WorkloadSpec, load_workload
from exp.workload.mooncake import read_mooncake

_MOONCAKE = Path("mooncake_fast25/conversation_trace.jsonl")
_POOL = 2000  # requests of a trace that slices are drawn from


class TraceSlices:
    """Draws workloads from the traces of a data folder."""

    def __init__(self, data: Path) -> None:
        self._data = data
        names = {"sharegpt": "vidur_traces", "azure": "azure_llm_2023", "mooncake": "mooncake_fast25"}
        self.names = tuple(name for name, folder in names.items() if (data / folder).is_dir())
        """Traces at hand."""

    def draw(self, name: str, seed: int, requests: int) -> JudgedWorkload:
        """Consecutive requests of a trace, on a random engine that can hold them."""
        source = random.Random(seed)
        most_tokens = 16_384 if name == "mooncake" else 4096
        least_tokens = most_tokens // 4
        limits = random_limits(source, least_tokens, most_tokens)
        while limits.max_model_len < least_tokens:
            limits = random_limits(source, least_tokens, most_tokens)
        read: Callable[..., list[SimulatedRequest]] = self._mooncake if name == "mooncake" else self._lengths
        fitting = [r for r in read(name, limits) if r.prompt_tokens + r.output_tokens <= limits.max_model_len]
        start = source.randrange(max(1, len(fitting) - requests))
        stretch = source.choice([0.02, 0.1, 0.5])
        chosen = fitting[start : start + requests]
        first_s = chosen[0].arrival_s if chosen else 0.0
        arriving = [_at(request, (request.arrival_s - first_s) * stretch) for request in chosen]
        return JudgedWorkload(f"{name}, seed {seed}", limits, tuple(arriving))

    def _lengths(self, name: str, limits: EngineLimits) -> list[SimulatedRequest]:
        spec = WorkloadSpec(_POOL, 5.0, self._data, most_tokens=limits.max_model_len)
        return [
            SimulatedRequest(f"r{index}", request.arrival_s, request.prompt_tokens, request.output_tokens)
            for index, request in enumerate(load_workload(name, spec).requests)
        ]

    def _mooncake(self, _: str, limits: EngineLimits) -> list[SimulatedRequest]:
        trace = read_mooncake(self._data / _MOONCAKE, WorkloadSpec(_POOL, None, self._data))
        return [
            SimulatedRequest(
                id=f"r{index}",
                arrival_s=request.arrival_s,
                prompt_tokens=request.prompt_tokens,
                output_tokens=request.output_tokens,
                block_hashes=_engine_hashes(request.block_hashes, limits.block_size),
            )
            for index, request in enumerate(trace.requests[:_POOL])
            if request.output_tokens > 0
        ]


def _engine_hashes(hashes: tuple[int, ...], block_size: int) -> tuple[int, ...]:
    """Every hash of the trace spans whole blocks of the engine: its block sizes divide 512."""
    blocks = HASH_TOKENS // block_size
    return tuple(key * blocks + part for key in hashes for part in range(blocks))


def _at(request: SimulatedRequest, arrival_s: float) -> SimulatedRequest:
    return SimulatedRequest(
        request.id,
        arrival_s,
        request.prompt_tokens,
        request.output_tokens,
        block_hashes=request.block_hashes,
    )
