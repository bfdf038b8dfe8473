"""One vLLM server for the length of a ``with``: started, pinned to its cores, loaded, ended.

The engine core, which computes, gets one core; the API server and the client share another. That is so
for a real forward pass and for an emulated one, so that neither has more to run on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass

import aiohttp

from block.errors import DeployError
from deploy.plan import ProcessPlan
from deploy.process import ManagedProcess
from deploy.readiness import late, wait_until_ready
from exp.client import LoadClient
from exp.cores import Cores, pinned_here
from exp.engine_gauges import EngineGauges
from exp.other_work import OtherWork
from exp.outcome import Outcome
from exp.prompt import PromptWriter
from exp.run_log import Clock, RequestLog, RunHeader, RunLog
from exp.target import Target
from exp.workload import TraceRequest, Workload

_READY_WITHIN_S = 240.0
_REQUEST_TIMEOUT_S = 120.0
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class TrialServer:
    """A server that answers."""

    port: int
    model: str
    """As the server calls it."""
    writer: PromptWriter

    async def run(
        self,
        workload: Workload,
        clock: Clock,
        on_done: Callable[[], None] | None = None,
        together: asyncio.Barrier | None = None,
    ) -> RunLog:
        """Give it a workload; returns what became of it. ``together``: see ``LoadClient.run``."""
        client = LoadClient(Target("127.0.0.1", self.port, self.model), self.writer, _REQUEST_TIMEOUT_S)
        done = (lambda _: on_done()) if on_done is not None else None
        before_s, others = time.monotonic(), OtherWork()
        async with EngineGauges(self.port) as gauges:
            run = await client.run(workload, on_done=done, together=together)
            wall_s, other_cores = time.monotonic() - before_s, others.cores
        header = RunHeader(
            clock=clock,
            name=workload.source,
            start_monotonic_s=run.start_s,
            wall_s=wall_s,
            preemptions=gauges.preemptions,
            kv_use_mean=gauges.kv_use_mean,
            kv_use_max=gauges.kv_use_max,
            other_cores=other_cores,
        )
        return RunLog(header, tuple(map(_log, run.outcomes)))

    async def warm_up(self, room: int) -> None:
        """Let first-time costs pass: short and long prompts, small and large batches."""
        lengths = ((8, 8), (room // 2, 8), (room // 8, 32), (8, 32), (8, 32), (8, 32), (room // 3, 16))
        requests = tuple(
            TraceRequest(0.05 * index, prompt, output) for index, (prompt, output) in enumerate(2 * lengths)
        )
        run = await self.run(Workload("warm-up", requests), "real")
        if errors := [request.error for request in run.requests if request.error]:
            raise DeployError(f"{self.model}: the first requests failed: {errors[0]}")


@asynccontextmanager
async def running(
    plan: ProcessPlan,
    model: str,
    writer: PromptWriter,
    starting: AbstractAsyncContextManager[None] | None = None,
    cores: Cores | None = None,
) -> AsyncIterator[TrialServer]:
    """A server that answers and is pinned; raises DeployError if it does not start. Ended afterwards.

    ``starting`` is entered while it starts; ``cores`` are this machine's first and last if not given.
    """
    cores = cores or Cores.of_this_machine()
    plan.log.parent.mkdir(parents=True, exist_ok=True)
    process = ManagedProcess.start(plan, _GRACE_S)
    try:
        async with starting or nullcontext():
            await _ready(process)
        assert process.pid is not None
        cores.pin_server(process.pid)
        with pinned_here(cores.front):
            yield TrialServer(plan.port, model, writer)
    finally:
        process.ask_to_end()
        done, _ = await asyncio.wait([process.ended], timeout=_GRACE_S + 5.0)
        if not done:
            await process.kill()


def _log(outcome: Outcome) -> RequestLog:
    """A prompt of another length than asked for is an error here: step times are judged by it."""
    request, error = outcome.request, outcome.error
    if not error and outcome.prompt_tokens != request.prompt_tokens:
        error = f"a prompt of {outcome.prompt_tokens} tokens, not {request.prompt_tokens} as asked"
    tokens = tuple(outcome.sent_s + at_s for at_s in outcome.token_s)
    return RequestLog(
        request.arrival_s, outcome.sent_s, request.prompt_tokens, request.output_tokens, tokens, error
    )


async def _ready(process: ManagedProcess) -> None:
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(_READY_WITHIN_S):
            await wait_until_ready(process, session)
    except TimeoutError as error:
        raise DeployError(late(process.plan, _READY_WITHIN_S)) from error
