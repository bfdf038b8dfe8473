"""The judge of the simulation: vLLM's own Scheduler in virtual time, step by step beside ours.

The loop around the scheduler is ``EngineCore``'s: one batch at a time, or one batch ahead with
asynchronous scheduling. Importing this imports vLLM.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Protocol

from vllm import SamplingParams

from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest, SimulatedStep
from block.types import BatchShape, EngineLimits
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec


class StepSeconds(Protocol):
    """What the virtual device is asked, once per step."""

    def seconds(self, shape: BatchShape) -> float:
        """Duration of one step of this shape."""
        ...


class VllmJudge:
    """vLLM's scheduler for ``limits``, fed with ``requests`` in virtual time."""

    def __init__(
        self,
        limits: EngineLimits,
        latency: StepSeconds,
        requests: Sequence[SimulatedRequest],
        empty_step_s: float = 0.0,
        host_s: Callable[[int], float] = lambda _: 0.0,
    ) -> None:
        """``host_s``: the engine's own time after a step of so many requests."""
        self._limits = limits
        self._latency = latency
        self._empty_step_s = empty_step_s
        self._host_s = host_s
        self._arrivals = deque(sorted(requests, key=lambda request: request.arrival_s))
        leaving = [(request.abort_s, request.id) for request in requests if request.abort_s is not None]
        self._aborts = deque(sorted(leaving, key=lambda item: item[0]))
        self._engine = VirtualEngine(engine_spec(limits))
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
        while self._aborts and self._aborts[0][0] <= self._now_s:
            self._engine.abort([self._aborts.popleft()[1]])

    def _schedule(self) -> bool:
        """Schedule a step if one may be; returns whether to try for another."""
        engine = self._engine
        if not engine.scheduler.get_num_unfinished_requests() or not (output := engine.schedule()):
            return False
        if output.total_num_scheduled_tokens == 0 and not output.preempted_req_ids:
            engine.under_way.pop()  # nothing happened: not a step
            return False
        self._steps.append(self._timed(output))
        self._count += 1
        return True

    def _timed(self, output: Any) -> SimulatedStep:
        requests = self._engine.scheduler.requests
        scheduled = dict(output.num_scheduled_tokens)
        shape = BatchShape.of((n, requests[name].num_computed_tokens) for name, n in scheduled.items())
        start_s = max(self._now_s, self._gpu_free_s)
        duration_s = self._latency.seconds(shape) if scheduled else self._empty_step_s
        self._gpu_free_s = start_s + duration_s
        preempted = tuple(sorted(output.preempted_req_ids or ()))
        return SimulatedStep(self._count, start_s, self._gpu_free_s, scheduled, preempted, 0)

    def _process(self) -> SimulatedStep:
        step = self._steps.popleft()
        self._now_s = max(self._now_s, step.end_s)
        if self._aborts:
            self._let_in()  # vLLM's engine core processes aborts before the step's output
        self._engine.finish_step()
        self._now_s += self._host_s(len(step.scheduled))
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


def engine_spec(limits: EngineLimits) -> VirtualEngineSpec:
    """The virtual engine with these limits."""
    kind = "async_scheduler.AsyncScheduler" if limits.async_scheduling else "scheduler.Scheduler"
    blocks = limits.total_blocks + 1
    return VirtualEngineSpec(
        scheduler=f"vllm.v1.core.sched.{kind}",
        asynchronous=limits.async_scheduling,
        num_gpu_blocks=blocks,
        block_size=limits.block_size,
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        flags={
            "enable_prefix_caching": limits.prefix_caching,
            "enable_chunked_prefill": limits.chunked_prefill,
            "long_prefill_token_threshold": limits.long_prefill_token_threshold,
            "long_prefill_token_threshold_adaptive": limits.long_prefill_token_threshold_adaptive,
            "scheduling_policy": limits.policy,
            "scheduler_reserve_full_isl": limits.reserve_full_prompt,
            # vLLM takes a share of the blocks and rounds down; half a block keeps the rounding away.
            "watermark": (limits.watermark_blocks + 0.5) / blocks if limits.watermark_blocks else 0.0,
            "hf_overrides": {"max_position_embeddings": limits.max_model_len},
        },
    )


def mismatch(
    limits: EngineLimits, latency: KernelLatency, requests: Sequence[SimulatedRequest]
) -> str | None:
    """The first difference between our steps and vLLM's, in words; None when all are equal."""
    return compare(limits, latency, requests).first_difference


@dataclass(frozen=True, slots=True)
class Comparison:
    """One workload, ours beside vLLM's."""

    steps: int
    mismatched_steps: int
    preemptions: int
    hit_tokens: int
    """Prompt tokens found in the prefix cache."""
    first_difference: str | None


def compare(limits: EngineLimits, latency: KernelLatency, requests: Sequence[SimulatedRequest]) -> Comparison:
    """Run both to the end. A step that only preempts lasts as long as one of no tokens."""
    empty_step_s = latency.seconds(BatchShape.of([]))
    simulation = EngineSimulation(limits, latency, requests, empty_step_s)
    ours = list(simulation.steps())
    theirs = VllmJudge(limits, latency, requests, empty_step_s).steps()
    pairs = list(zip_longest(ours, theirs))
    wrong = [pair for pair in pairs if None in pair or not equal_steps(*pair)]
    return Comparison(
        steps=len(pairs),
        mismatched_steps=len(wrong),
        preemptions=sum(len(step.preempted) for step in theirs),
        hit_tokens=sum(outcome.hit_tokens for outcome in simulation.outcomes()),
        first_difference=f"ours {wrong[0][0]}\nvLLM {wrong[0][1]}" if wrong else None,
    )


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
