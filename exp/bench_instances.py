"""How many emulated instances a machine carries: real vLLM servers, more and more, the same load each.

An instance is carried while its requests take hardly longer than one instance alone needs for them. The
client that makes the load runs here too and is counted in.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from exp.cores import Cores
from exp.free_port import free_port
from exp.load import Load
from exp.prompt import PromptWriter
from exp.run_log import RunLog
from exp.serving_metrics import ServingMetrics
from exp.time_left import TimeLeft
from exp.trial_engine import TrialEngine
from exp.trial_server import TrialServer, running

START_S = 12.0
DRAIN_S = 12.0
CARRIED_WITHIN = 0.02
"""TPOT may be this much above that of one instance alone."""
_ANY_CORE = Cores(None, None)


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many instances at once."""

    instances: int
    ttft_mean_s: float
    tpot_mean_s: float
    tpot_p99_s: float
    tokens_per_s: float
    """Of all together."""
    failed: int
    cores_used: float
    """By the servers; the client comes on top."""
    client_cores_used: float
    worst_lateness_s: float
    """Of the client."""


@dataclass(frozen=True, slots=True)
class InstanceBench:
    """Servers of one kind under a load each."""

    engine: TrialEngine
    latency: Path
    rate_per_s: float
    seconds: float
    folder: Path
    data: Path

    def planned_s(self, counts: Sequence[int]) -> float:
        """Roughly."""
        return max(counts) * START_S + len(counts) * (self.seconds + DRAIN_S)

    async def run(self, counts: Sequence[int], progress: TimeLeft) -> list[Crowd]:
        """One crowd for each count, which must rise."""
        crowds: list[Crowd] = []
        async with AsyncExitStack() as stack:
            servers: list[TrialServer] = []
            for count in counts:
                while len(servers) < count:
                    servers.append(await self._start(stack, len(servers), progress))
                name = f"{count} instance{'s' if count > 1 else ''}"
                async with progress.part(name, self.seconds + DRAIN_S):
                    crowds.append(await self._measure(servers))
        return crowds

    async def _start(self, stack: AsyncExitStack, index: int, progress: TimeLeft) -> TrialServer:
        name = f"instance {index}"
        settings = {"emulation": {"latency": str(self.latency), "seed": index}}
        plan = self.engine.plan(
            "emulated", free_port(), self.folder / f"instance-{index}.log", settings, name=name
        )
        writer = PromptWriter(self.engine.model / "tokenizer.json")
        starting = progress.part(f"starting {name}", START_S)
        return await stack.enter_async_context(
            running(plan, self.engine.served_name, writer, starting, _ANY_CORE)
        )

    async def _measure(self, servers: Sequence[TrialServer]) -> Crowd:
        # The same seeds for one instance and for many: its own requests stay what they were.
        workloads = [
            Load("sharegpt", self.rate_per_s, self.seconds, seed).workload(
                self.engine.max_model_len, self.data
            )
            for seed in range(len(servers))
        ]
        together = asyncio.Barrier(len(servers) + 1)
        running = asyncio.gather(
            *(
                server.run(load, "emulated", together=together)
                for server, load in zip(servers, workloads, strict=True)
            )
        )
        # Writing the prompts is no part of the load.
        await _reached(together, running)
        before, client_before_s, begun_s = _children_cpu_s(), time.process_time(), time.monotonic()
        runs = await running
        wall_s = time.monotonic() - begun_s
        return _crowd(
            runs, (_children_cpu_s() - before) / wall_s, (time.process_time() - client_before_s) / wall_s
        )


def carried(crowds: Sequence[Crowd]) -> int:
    """The largest crowd, counted up from one, that is as quick as one instance alone; 0 if none was."""
    allowed_s = crowds[0].tpot_mean_s * (1.0 + CARRIED_WITHIN)
    most = 0
    for crowd in crowds:
        if crowd.failed or crowd.tpot_mean_s > allowed_s:
            break
        most = crowd.instances
    return most


def crowd_table(crowds: Sequence[Crowd]) -> Table:
    """One row per count."""
    table = Table(title=f"emulated instances on {os.cpu_count()} cores")
    names = (
        "instances",
        "TTFT, ms",
        "TPOT, ms",
        "TPOT p99",
        "tokens/s",
        "cores",
        "client",
        "client late, ms",
    )
    for name in names:
        table.add_column(name, justify="right")
    for crowd in crowds:
        table.add_row(
            str(crowd.instances),
            f"{crowd.ttft_mean_s * 1e3:.0f}",
            f"{crowd.tpot_mean_s * 1e3:.2f}",
            f"{crowd.tpot_p99_s * 1e3:.2f}",
            f"{crowd.tokens_per_s:.0f}",
            f"{crowd.cores_used:.2f}",
            f"{crowd.client_cores_used:.2f}",
            f"{crowd.worst_lateness_s * 1e3:.1f}",
        )
    return table


def crowd_summary(crowds: Sequence[Crowd], rate_per_s: float) -> dict[str, Any]:
    """The last line."""
    return {
        "carried": carried(crowds),
        "rate_per_instance": rate_per_s,
        "cores": os.cpu_count(),
        "crowds": [asdict(crowd) for crowd in crowds],
    }


def _crowd(runs: Sequence[RunLog], cores_used: float, client_cores_used: float) -> Crowd:
    metrics = [ServingMetrics.of(run) for run in runs]
    # Judged by the first instance, whose requests are the same in every crowd.
    return Crowd(
        instances=len(runs),
        ttft_mean_s=metrics[0].ttft_s.mean,
        tpot_mean_s=metrics[0].tpot_s.mean,
        tpot_p99_s=metrics[0].tpot_s.p99,
        tokens_per_s=sum(each.throughput_per_s for each in metrics),
        failed=sum(each.failed for each in metrics),
        cores_used=cores_used,
        client_cores_used=client_cores_used,
        worst_lateness_s=max(run.worst_lateness_s for run in runs),
    )


async def _reached(together: asyncio.Barrier, running: asyncio.Future[list[RunLog]]) -> None:
    """Until all clients are ready, or one of them has failed."""
    ready: asyncio.Future[Any] = asyncio.ensure_future(together.wait())
    either: list[asyncio.Future[Any]] = [ready, running]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()


def _children_cpu_s() -> float:
    """CPU seconds of everything this process has started and that still runs."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(each.user + each.system for each in times)
