"""The judge of the simulation: vLLM's own Scheduler in virtual time, step by step beside ours.

The loop around the scheduler is ``EngineCore``'s: one batch at a time, or one batch ahead with
asynchronous scheduling. Importing this imports vLLM.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vllm import SamplingParams

from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest, SimulatedStep
from block.types import BatchShape, EngineLimits
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec


class VllmJudge:
    """vLLM's scheduler for ``limits``, fed with ``requests`` in virtual time."""

    def __init__(
        self, limits: EngineLimits, latency: KernelLatency, requests: Sequence[SimulatedRequest]
    ) -> None:
        self._limits = limits
        self._latency = latency
        self._arrivals = deque(sorted(requests, key=lambda request: request.arrival_s))
        self._engine = VirtualEngine(_spec(limits))
        self._now_s = 0.0
        self._gpu_free_s = 0.0
        self._steps: deque[SimulatedStep] = deque()
        self._count = 0

    def steps(self) -> list[SimulatedStep]:
        """Run to the end; raises RuntimeError for requests that vLLM never schedules."""
        done: list[SimulatedStep] = []
        while True:
            self._let_in()
            if self._schedule():
                continue
            if self._steps:
                done.append(self._process())
            elif self._arrivals:
                self._now_s = self._arrivals[0].arrival_s
            elif self._engine.scheduler.get_num_unfinished_requests():
                raise RuntimeError("vLLM's scheduler has requests that it never schedules")
            else:
                return done

    def _let_in(self) -> None:
        while self._arrivals and self._arrivals[0].arrival_s <= self._now_s:
            request = self._arrivals.popleft()
            sampling = SamplingParams(
                max_tokens=request.max_tokens or request.output_tokens,
                extra_args={"block_output_tokens": request.output_tokens},
                seed=zlib.crc32(request.id.encode()),
            )
            prompt = _prompt(request, self._limits.block_size)
            self._engine.add(
                request.id, prompt, sampling, arrival_time=request.arrival_s, priority=request.priority
            )

    def _schedule(self) -> bool:
        """Schedule a step if one may be; returns whether to try for another."""
        engine = self._engine
        if not engine.scheduler.get_num_unfinished_requests() or not (output := engine.schedule()):
            return False
        if output.total_num_scheduled_tokens == 0:
            engine.under_way.pop()  # an empty batch takes no time and is no step
            return bool(output.preempted_req_ids)
        self._steps.append(self._timed(output))
        self._count += 1
        return True

    def _timed(self, output: Any) -> SimulatedStep:
        requests = self._engine.scheduler.requests
        scheduled = dict(output.num_scheduled_tokens)
        shape = BatchShape.of((n, requests[name].num_computed_tokens) for name, n in scheduled.items())
        start_s = max(self._now_s, self._gpu_free_s)
        self._gpu_free_s = start_s + self._latency.seconds(shape)
        preempted = tuple(sorted(output.preempted_req_ids or ()))
        return SimulatedStep(self._count, start_s, self._gpu_free_s, scheduled, preempted, 0)

    def _process(self) -> SimulatedStep:
        step = self._steps.popleft()
        self._now_s = max(self._now_s, step.end_s)
        self._engine.finish_step()
        pool = self._engine.scheduler.kv_cache_manager.block_pool
        return replace(step, free_blocks=pool.get_num_free_blocks())


def _prompt(request: SimulatedRequest, block_size: int) -> list[int]:
    """Token ids that are equal exactly where the block hashes say so."""
    tokens: list[int] = []
    full = request.prompt_tokens // block_size
    for key in request.block_hashes[:full]:
        tokens += [100_000 + key] * block_size
    own = 10_000_000_000 + zlib.crc32(request.id.encode())
    return tokens + [own] * (request.prompt_tokens - len(tokens))


def _spec(limits: EngineLimits) -> VirtualEngineSpec:
    kind = "async_scheduler.AsyncScheduler" if limits.async_scheduling else "scheduler.Scheduler"
    return VirtualEngineSpec(
        scheduler=f"vllm.v1.core.sched.{kind}",
        asynchronous=limits.async_scheduling,
        num_gpu_blocks=limits.total_blocks + 1,
        block_size=limits.block_size,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        flags={
            "enable_prefix_caching": limits.prefix_caching,
            "enable_chunked_prefill": limits.chunked_prefill,
            "long_prefill_token_threshold": limits.long_prefill_token_threshold,
            "scheduling_policy": limits.policy,
            "scheduler_reserve_full_isl": limits.reserve_full_prompt,
        },
    )


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
