"""Random engines and request lists, from roomy to starved."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import strategies as st

from block.simulation.engine import SimulatedRequest
from block.types import EngineLimits


@dataclass(frozen=True)
class Workload:
    """An engine and what it meets."""

    limits: EngineLimits
    requests: tuple[SimulatedRequest, ...]


@st.composite
def engines(draw: st.DrawFn) -> EngineLimits:
    block_size = draw(st.sampled_from([8, 16, 32]))
    blocks = draw(st.integers(16, 300))
    seats = draw(st.integers(1, 64))
    return EngineLimits(
        block_size=block_size,
        total_blocks=blocks,
        max_num_seqs=seats,
        max_num_batched_tokens=draw(st.integers(max(seats, 64), 2048)),
        max_model_len=min(blocks * block_size, draw(st.sampled_from([256, 1024, 4096]))),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 40])),
        long_prefill_token_threshold_adaptive=draw(st.booleans()),
        prefix_caching=draw(st.booleans()),
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        async_scheduling=draw(st.booleans()),
        watermark_blocks=draw(st.sampled_from([0, 0, 1, 10])),
        reserve_full_prompt=draw(st.booleans()),
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    limits = draw(engines())
    seed = random.Random(draw(st.integers(0, 2**32)))
    longest_prompt = min(limits.max_model_len - 2, draw(st.sampled_from([30, 300, 900])))
    longest_output = draw(st.sampled_from([3, 100, 300]))
    gap_s = draw(st.sampled_from([0.005, 0.05, 0.5]))
    families = [[seed.randrange(1000) for _ in range(20)] for _ in range(3)]
    aborted = draw(st.sampled_from([0.0, 0.0, 0.2]))
    arrival_s, requests = 0.0, []
    for index in range(draw(st.integers(1, 50))):
        arrival_s += seed.expovariate(1 / gap_s)
        prompt = seed.randint(1, longest_prompt)
        output = min(seed.randint(1, longest_output), limits.max_model_len - prompt)
        shared = seed.randint(0, 20) if seed.random() < 0.7 else 0
        requests.append(
            SimulatedRequest(
                id=f"r{index}",
                arrival_s=arrival_s,
                prompt_tokens=prompt,
                output_tokens=output,
                max_tokens=output + seed.choice([0, 0, 1, 30]),
                priority=seed.choice([0, 0, 1, 2]),
                block_hashes=tuple(seed.choice(families)[:shared]),
                abort_s=arrival_s + seed.expovariate(1.0) if seed.random() < aborted else None,
            )
        )
    return Workload(limits, tuple(requests))
