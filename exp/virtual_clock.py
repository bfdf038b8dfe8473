"""A pack and a workload in virtual time: what real-time emulation would see, without the waiting.

Scheduling is vLLM's own class, or the compiled simulation that equals it step by step. Each step lasts as
the pack says; the host's work is the constants measured beside the pack. The result is the same kind of
log that a real run writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest, SimulatedStep
from block.types import BatchShape, EngineLimits
from exp.host_overheads import HostOverheads
from exp.run_log import RequestLog, RunHeader, RunLog
from exp.step_tokens import StepTokens
from exp.workload import Workload

Seconds = Callable[[BatchShape], float]

FRONT_END_BUSY = 0.5
"""Share of a request's way in for which the next one has to wait.

Without it TTFT in bursts is up to 10 % shorter than real-time emulation has it, with 0.37 up to 7 %; from a
half to nine tenths it is within 2.6 % (``small-llama``, the bursty loads of a full check).
"""


@dataclass(frozen=True, slots=True)
class VirtualClock:
    """One engine without a device, a server or a clock."""

    limits: EngineLimits
    host: HostOverheads

    def run(self, workload: Workload, seconds: Seconds) -> RunLog:
        """Through vLLM's scheduler; ``seconds`` may sample, and is asked once per step in order."""
        # Imports vLLM, which takes seconds: before the clock of the run.
        from exp.judge import VllmJudge

        judge = VllmJudge(self.limits, _Asked(seconds), self._arrivals(workload), host_s=self.host.engine)
        before_s = time.perf_counter()
        return self._log(workload, judge.steps(), before_s)

    def run_fast(self, workload: Workload, mean: KernelLatency) -> RunLog:
        """Through the compiled simulation, every step at its mean duration."""
        simulation = EngineSimulation(self.limits, self._cadence(mean), self._arrivals(workload))
        before_s = time.perf_counter()
        return self._log(workload, simulation.steps(), before_s)

    def _arrivals(self, workload: Workload) -> Sequence[SimulatedRequest]:
        """In the engine's queue: the front end takes in one request after the other."""
        due = sorted(enumerate(workload.requests), key=lambda item: item[1].arrival_s)
        requests, free_s = [], 0.0
        for index, request in due:
            way_s, begin_s = self.host.way_in(request.prompt_tokens), max(free_s, request.arrival_s)
            free_s = begin_s + FRONT_END_BUSY * way_s
            lengths = request.prompt_tokens, request.output_tokens
            requests.append(SimulatedRequest(str(index), begin_s + way_s, *lengths))
        return sorted(requests, key=lambda request: request.arrival_s)

    def _cadence(self, mean: KernelLatency) -> KernelLatency:
        """Without overlap the engine's own time comes on top of each step."""
        if self.limits.async_scheduling:
            return mean
        return replace(
            mean,
            token_seconds=tuple(seconds + self.host.engine_s for seconds in mean.token_seconds),
            per_request_s=mean.per_request_s + self.host.engine_per_request_s,
        )

    def _log(self, workload: Workload, steps: Iterable[SimulatedStep], before_s: float) -> RunLog:
        tokens = StepTokens(
            {str(i): (r.prompt_tokens, r.output_tokens) for i, r in enumerate(workload.requests)},
            self.limits.total_blocks,
            self.host,
        )
        for step in steps:
            tokens.add(step)
        requests = tuple(
            RequestLog(r.arrival_s, r.arrival_s, r.prompt_tokens, r.output_tokens, tokens.of(str(i)))
            for i, r in enumerate(workload.requests)
        )
        header = RunHeader(
            clock="virtual",
            name=workload.source,
            start_monotonic_s=0.0,
            wall_s=time.perf_counter() - before_s,
            preemptions=tokens.preemptions,
            kv_use_mean=tokens.kv_use_mean,
            kv_use_max=tokens.kv_use_max,
        )
        return RunLog(header, requests)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A function in the place of a latency model."""

    function: Seconds

    def seconds(self, shape: BatchShape) -> float:
        return self.function(shape)
