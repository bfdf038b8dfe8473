"""The judge of the simulation: vLLM's own Scheduler driven in virtual time, step by step beside ours.

Builds no engine, no worker and no model weights. The loop around the scheduler is ``EngineCore``'s:
one batch at a time, or one batch ahead with asynchronous scheduling.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest, SimulatedStep
from block.types import BatchShape, EngineLimits

_MODEL = Path(__file__).parent.parent / "config" / "models" / "llama-2-7b"


@dataclass
class _Batch:
    output: Any
    start_s: float
    end_s: float
    scheduled: dict[str, int]
    emits: dict[str, bool]
    preempted: tuple[str, ...]
    index: int


class VllmJudge:
    """vLLM's scheduler for ``limits``, fed with ``requests`` in virtual time."""

    def __init__(
        self, limits: EngineLimits, latency: KernelLatency, requests: Sequence[SimulatedRequest]
    ) -> None:
        self._limits = limits
        self._latency = latency
        self._arrivals = deque(sorted(requests, key=lambda request: request.arrival_s))
        self._lengths = {request.id: request.output_tokens for request in requests}
        self._scheduler = _build_scheduler(limits)
        self._now_s = 0.0
        self._gpu_free_s = 0.0
        self._batches: deque[_Batch] = deque()
        self._count = 0

    def steps(self) -> list[SimulatedStep]:
        """Run to the end."""
        done: list[SimulatedStep] = []
        depth = 2 if self._limits.async_scheduling else 1
        while True:
            self._let_in()
            may_schedule = self._scheduler.get_num_unfinished_requests() and len(self._batches) < depth
            if may_schedule and self._schedule():
                continue
            if self._batches:
                done.append(self._process(self._batches.popleft()))
            elif self._arrivals:
                self._now_s = self._arrivals[0].arrival_s
            else:
                return done

    def _let_in(self) -> None:
        while self._arrivals and self._arrivals[0].arrival_s <= self._now_s:
            self._scheduler.add_request(_vllm_request(self._arrivals.popleft(), self._limits))

    def _schedule(self) -> bool:
        output = self._scheduler.schedule()
        if output.total_num_scheduled_tokens == 0:
            if self._batches or output.preempted_req_ids:
                return bool(output.preempted_req_ids)
            if not self._arrivals:
                raise RuntimeError("vLLM's scheduler has requests that it never schedules")
            return False
        requests = self._scheduler.requests
        scheduled = dict(output.num_scheduled_tokens)
        shape = BatchShape.of((n, requests[name].num_computed_tokens) for name, n in scheduled.items())
        start_s = max(self._now_s, self._gpu_free_s)
        self._gpu_free_s = start_s + self._latency.seconds(shape)
        emits = {name: not requests[name].is_prefill_chunk for name in scheduled}
        preempted = tuple(sorted(output.preempted_req_ids or ()))
        self._batches.append(
            _Batch(output, start_s, self._gpu_free_s, scheduled, emits, preempted, self._count)
        )
        self._count += 1
        return True

    def _process(self, batch: _Batch) -> SimulatedStep:
        from vllm.v1.outputs import ModelRunnerOutput

        self._now_s = max(self._now_s, batch.end_s)
        names = list(batch.scheduled)
        sampled = [[self._next_token(name)] if batch.emits[name] else [] for name in names]
        self._scheduler.update_from_output(
            batch.output,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={name: i for i, name in enumerate(names)},
                sampled_token_ids=sampled,
            ),
        )
        free = self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        return SimulatedStep(batch.index, batch.start_s, batch.end_s, batch.scheduled, batch.preempted, free)

    def _next_token(self, name: str) -> int:
        """A token of its own for every request and position, and the end where the length says so."""
        request = self._scheduler.requests.get(name)
        if request is None:
            return 5
        position = request.num_output_tokens + 1
        if position >= self._lengths[name]:
            return 2
        return 1000 + hash((name, position)) % 30_000


def _vllm_request(request: SimulatedRequest, limits: EngineLimits) -> Any:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    sampling = SamplingParams(max_tokens=request.max_tokens or request.output_tokens)
    sampling._eos_token_id = 2
    return Request(
        request_id=request.id,
        prompt_token_ids=_prompt(request, limits.block_size),
        sampling_params=sampling,
        pooling_params=None,
        arrival_time=request.arrival_s,
        priority=request.priority,
        block_hasher=_hasher(limits.block_size) if limits.prefix_caching else None,
    )


def _prompt(request: SimulatedRequest, block_size: int) -> list[int]:
    """Token ids that are equal exactly where the block hashes say so."""
    tokens: list[int] = []
    full = request.prompt_tokens // block_size
    for key in request.block_hashes[:full]:
        tokens += [100_000 + key] * block_size
    own = 10_000_000 + abs(hash(request.id)) % 1_000_000_000
    return tokens + [own] * (request.prompt_tokens - len(tokens))


@lru_cache
def _hasher(block_size: int) -> Any:
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    function = get_hash_fn_by_name("sha256")
    init_none_hash(function)
    return get_request_block_hasher(block_size, function)


def _build_scheduler(limits: EngineLimits) -> Any:
    import torch
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import (
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheGroupSpec,
    )
    from vllm.v1.structured_output import StructuredOutputManager

    config = _engine_config(limits)
    config.cache_config.num_gpu_blocks = limits.total_blocks + 1
    spec = FullAttentionSpec(block_size=limits.block_size, num_kv_heads=1, head_size=1, dtype=torch.float16)
    kv_cache = KVCacheConfig(
        num_blocks=limits.total_blocks + 1,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
    )
    kind = AsyncScheduler if limits.async_scheduling else Scheduler
    return kind(config, kv_cache, StructuredOutputManager(config), block_size=limits.block_size)


def _engine_config(limits: EngineLimits) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(_MODEL),
        skip_tokenizer_init=True,
        load_format="dummy",
        max_model_len=limits.max_model_len,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        block_size=limits.block_size,
        enable_prefix_caching=limits.prefix_caching,
        enable_chunked_prefill=limits.chunked_prefill,
        long_prefill_token_threshold=limits.long_prefill_token_threshold,
        scheduling_policy=limits.policy,
        async_scheduling=limits.async_scheduling,
        scheduler_reserve_full_isl=limits.reserve_full_prompt,
    ).create_engine_config()


def mismatch(
    limits: EngineLimits, latency: KernelLatency, requests: Sequence[SimulatedRequest]
) -> str | None:
    """The first difference between our steps and vLLM's, in words; None when all are equal."""
    ours = list(EngineSimulation(limits, latency, requests).steps())
    theirs = VllmJudge(limits, latency, requests).steps()
    for mine, judged in zip(ours, theirs, strict=False):
        if not equal_steps(mine, judged):
            return f"ours {mine}\nvLLM {judged}"
    return None if len(ours) == len(theirs) else f"{len(ours)} steps, vLLM has {len(theirs)}"


def equal_steps(ours: SimulatedStep, theirs: SimulatedStep) -> bool:
    """Same requests with the same tokens in the same order, same preemptions, same free blocks and times."""
    return (
        ours.step == theirs.step
        and list(ours.scheduled.items()) == list(theirs.scheduled.items())
        and sorted(ours.preempted) == sorted(theirs.preempted)
        and ours.free_blocks == theirs.free_blocks
        and abs(ours.start_s - theirs.start_s) < 1e-9
        and abs(ours.end_s - theirs.end_s) < 1e-9
    )
