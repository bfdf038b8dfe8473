"""Random engines and what they meet, from roomy to starved: what fidelity is judged on.

Seeded: the same seed gives the same engine and the same requests.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from block.simulation.engine import SimulatedRequest
from block.types import EngineLimits


@dataclass(frozen=True, slots=True)
class JudgedWorkload:
    """An engine and its requests."""

    source: str
    limits: EngineLimits
    requests: tuple[SimulatedRequest, ...]


def random_limits(source: random.Random, least_tokens: int = 64, most_tokens: int = 4096) -> EngineLimits:
    """An engine whose ``max_model_len`` lies between the two token counts, if its blocks hold that many."""
    block_size = source.choice([1, 8, 16, 16, 16, 32, 64, 128])
    blocks = _log_uniform(source, 64, source.choice([256, 8192]))
    max_model_len = min(_log_uniform(source, least_tokens, most_tokens), blocks * block_size)
    seats = _log_uniform(source, 1, 256)
    chunked = source.random() < 0.85
    chunk = max(_log_uniform(source, 64, 8192), seats)
    cap = source.choice([0, 0, 0, _log_uniform(source, 8, 2048)])
    return EngineLimits(
        block_size=block_size,
        total_blocks=blocks,
        max_num_seqs=seats,
        max_num_batched_tokens=chunk if chunked else max(chunk, max_model_len),
        max_model_len=max_model_len,
        long_prefill_token_threshold=min(cap, max_model_len),
        long_prefill_token_threshold_adaptive=source.random() < 0.5,
        chunked_prefill=chunked,
        prefix_caching=source.random() < 0.6,
        policy=source.choice(["fcfs", "priority"]),
        async_scheduling=source.random() < 0.5,
        watermark_blocks=source.choice([0, 0, 0, 1, blocks // 100, blocks // 8]),
        reserve_full_prompt=source.random() < 0.6,
    )


def random_workload(seed: int, requests: int) -> JudgedWorkload:
    """An engine and about ``requests`` requests, their lengths scaled so that memory may be tight."""
    source = random.Random(seed)
    limits = random_limits(source)
    count = max(1, round(requests * source.choice([0.2, 1.0, 1.0, 2.0])))
    lengths = _lengths(source, limits, count)
    chains = _chains(source, limits)
    sharing = source.choice([0.0, 0.5, 0.9, 1.0]) if limits.prefix_caching else 0.0
    leaving = source.choice([0.0, 0.0, 0.1, 0.3])
    gap_s = math.exp(source.uniform(math.log(1e-4), math.log(0.2)))
    arrival_s, arriving = 0.0, []
    for index, (prompt, output) in enumerate(lengths):
        # Some arrive together, at the very same time.
        arrival_s += source.expovariate(1 / gap_s) if source.random() < 0.8 else 0.0
        chain = source.choice(chains) if source.random() < sharing else ()
        arriving.append(
            SimulatedRequest(
                # Names whose order is not that of arrival: the last tie-break of the priority queue.
                id=f"{source.randrange(1000)}-{index}",
                arrival_s=arrival_s,
                prompt_tokens=prompt,
                output_tokens=output,
                max_tokens=output + source.choice([0, 0, 1, 2, 50]),
                priority=source.choice([0, 0, 0, 1, 2, 7]),
                block_hashes=tuple(chain[: source.randint(0, len(chain))]),
                abort_s=arrival_s + source.expovariate(2.0) if source.random() < leaving else None,
            )
        )
    return JudgedWorkload(f"random, seed {seed}", limits, tuple(arriving))


def _lengths(source: random.Random, limits: EngineLimits, count: int) -> list[tuple[int, int]]:
    """Prompt and output tokens; about two in three workloads want more memory than there is."""
    seats = min(limits.max_num_seqs, count)
    fair_share = limits.total_blocks * limits.block_size // seats
    longest = max(4, min(limits.max_model_len, round(fair_share * source.choice([0.3, 2.0, 4.0, 8.0]))))
    longest_prompt = max(1, min(limits.max_model_len - 1, round(longest * source.choice([0.1, 0.4, 0.9]))))
    longest_output = max(1, min(longest, source.choice([3, 60, 300, 600])))
    pairs = []
    for _ in range(count):
        prompt = source.randint(1, longest_prompt)
        # One in ten asks for more than max_model_len leaves.
        room = limits.max_model_len - prompt + (source.random() < 0.1)
        pairs.append((prompt, min(source.randint(1, longest_output), room)))
    return pairs


def _chains(source: random.Random, limits: EngineLimits) -> list[Sequence[int]]:
    """Chains of block hashes that share beginnings with each other, as conversations do."""
    longest = max(1, limits.max_model_len // limits.block_size)
    chains: list[Sequence[int]] = []
    for _ in range(source.choice([1, 3, 10])):
        parent = source.choice(chains) if chains and source.random() < 0.6 else ()
        start = tuple(parent[: source.randint(0, len(parent))])
        own = tuple(source.randrange(100_000) for _ in range(source.randint(1, longest)))
        chains.append((start + own)[:longest])
    return chains


def _log_uniform(source: random.Random, low: int, high: int) -> int:
    return round(math.exp(source.uniform(math.log(low), math.log(high))))
