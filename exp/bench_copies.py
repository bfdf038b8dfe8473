"""Several schedulers that do not talk to one another, before one set of emulated vLLM servers.

The servers and their predictors stay up; for each count so many schedulers are started that share a port,
and the same load goes through them. What they know of one another's choices, predictors have told them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import aiohttp
import numpy as np
from rich.table import Table

from block.config import SchedulerConfig
from deploy.cluster_file import load_cluster, load_plan
from deploy.local import LocalCluster
from deploy.plan import ClusterPlan, ProcessPlan
from deploy.process import ManagedProcess
from deploy.readiness import wait_until_ready
from deploy.run_folder import write_config
from exp.client import LoadClient
from exp.free_port import free_port, free_port_range
from exp.local_model import make_local_model
from exp.outcome import Outcome
from exp.prompt import PromptWriter
from exp.report import Distribution, PolicyReport
from exp.slowed_latency import slowed_latency
from exp.target import Target
from exp.workload import TraceRequest, Workload

_ROOT = Path(__file__).resolve().parent.parent
_CLUSTER = _ROOT / "config" / "cluster" / "local.yaml"
_MODEL = "llama-2-7b"
_READY_S = 120.0
_LOOKS_PER_COPY = 4
"""The kernel deals connections out by chance: so many looks see every copy, most likely."""
_GRACE_S = 10.0
_WARM_UP = TraceRequest(0.0, 32, 4)


@dataclass(frozen=True, slots=True)
class Copies:
    """What so many schedulers made of the load."""

    schedulers: int
    requests: int
    failed: int
    fallbacks: int
    completed_per_s: float
    """While the middle eight tenths of the answers ended: how the load begins and ends does not count."""
    ttft_s: Distribution | None
    e2e_s: Distribution | None
    decision_s: Distribution | None
    imbalance: float
    per_instance: tuple[int, ...]
    client_late_s: float


@dataclass(frozen=True, slots=True)
class CopiesBench:
    """A cluster and what it is sent."""

    plan: ClusterPlan
    workload: Workload

    @classmethod
    def prepare(cls, instances: int, slower: float, workload: Workload) -> Self:
        """``slower``: so many times slower a GPU is emulated."""
        make_local_model(_MODEL, _ROOT / ".cache" / "models" / _MODEL)
        first = free_port_range(1 + 2 * instances)
        ports = {"scheduler": first, "engine": first + 1, "predictor": first + 1 + instances}
        given = ["name=bench-copies", *(f"{role}_port={port}" for role, port in ports.items())]
        if slower > 1:
            table = _ROOT / load_cluster(_CLUSTER).engine.latency
            given.append(f"engine.latency={slowed_latency(table, slower, _ROOT / 'run')}")
        return cls(load_plan(_CLUSTER, given, instances), workload)

    async def run(self, counts: Sequence[int], say: Callable[[str], None]) -> list[Copies]:
        """The load through so many schedulers, one count after the other."""
        say(f"starting {self.workload.source}")
        async with LocalCluster(self.plan):
            # The first requests of a server are slower than all others.
            first = Workload("warm-up", (_WARM_UP,) * (2 * self._instances))
            await self._client(self.plan.openai_base_url).run(first, "round_robin")
            found = []
            for count in counts:
                say(f"{count} scheduler{'s' * (count > 1)}")
                async with self._schedulers(count) as url:
                    run = await self._client(url).run(self.workload, "block")
                found.append(copies_of(count, run.outcomes))
            return found

    @property
    def _instances(self) -> int:
        return sum(process.role == "engine" for process in self.plan.processes)

    def _client(self, url: str) -> LoadClient:
        writer = PromptWriter(self.plan.model / "tokenizer.json")
        return LoadClient(Target.of(url, self.plan.served_model_name), writer)

    @asynccontextmanager
    async def _schedulers(self, count: int) -> AsyncIterator[str]:
        """So many, beside the cluster's own; yields their OpenAI base URL."""
        plan = self._scheduler_plan(count)
        process = ManagedProcess.start(plan, _GRACE_S)
        try:
            async with asyncio.timeout(_READY_S):
                for _ in range(_LOOKS_PER_COPY * count):
                    async with aiohttp.ClientSession() as session:  # a connection that lasts sees one copy
                        await wait_until_ready(process, session)
            yield f"http://{plan.host}:{plan.port}/v1"
        finally:
            process.ask_to_end()
            await process.ended

    def _scheduler_plan(self, count: int) -> ProcessPlan:
        """As the cluster's own but for the port and the number."""
        [own] = [process for process in self.plan.processes if process.role == "scheduler"]
        [config] = [each for each in self.plan.configs.values() if isinstance(each, SchedulerConfig)]
        name, port = f"schedulers-{count}", free_port()
        settings = config.settings.model_copy(update={"workers": count})
        path = self.plan.folder / f"{name}.yaml"
        write_config(path, config.model_copy(update={"port": port, "settings": settings}))
        return replace(
            own,
            name=name,
            port=port,
            argv=(*own.argv[:-1], str(path)),
            health_url=f"http://{own.host}:{port}/health",
            log=own.log.with_name(f"{name}.log"),
        )


def copies_of(count: int, outcomes: Sequence[Outcome]) -> Copies:
    """The figures of one run."""
    report = PolicyReport.of("block", list(outcomes))
    return Copies(
        schedulers=count,
        requests=report.requests,
        failed=report.failed,
        fallbacks=report.fallbacks,
        completed_per_s=completed_per_s(outcomes),
        ttft_s=report.ttft_s,
        e2e_s=report.e2e_s,
        decision_s=report.decision_s,
        imbalance=imbalance(outcomes),
        per_instance=tuple(report.per_instance.values()),
        client_late_s=report.worst_lateness_s,
    )


def completed_per_s(outcomes: Sequence[Outcome]) -> float:
    """Answers per second while the middle eight tenths of them ended; 0 if there are too few."""
    ends_s = np.sort([one.sent_s + one.e2e_s for one in outcomes if one.e2e_s is not None and not one.error])
    first, last = round(0.1 * len(ends_s)), round(0.9 * len(ends_s))
    if last - first < 1:
        return 0.0
    span_s = float(ends_s[min(last, len(ends_s) - 1)] - ends_s[first])
    return (last - first) / span_s if span_s > 0 else 0.0


def imbalance(outcomes: Sequence[Outcome], every_s: float = 0.1) -> float:
    """How unequal the instances' requests are: standard deviation over mean, averaged over time.

    As in ``exp.cluster.studies``, over the times at which each instance has one request on average.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    for one in outcomes:
        if one.instance is not None and one.e2e_s is not None:
            spans.setdefault(one.instance, []).append((one.sent_s, one.sent_s + one.e2e_s))
    if not spans:
        return 0.0
    last_s = max(end_s for each in spans.values() for _, end_s in each)
    times_s = np.arange(0.0, last_s, every_s)
    held = np.array([_held(np.array(each), times_s) for each in spans.values()])
    busy = held[:, held.mean(axis=0) >= 1.0]
    return float((busy.std(axis=0) / busy.mean(axis=0)).mean()) if busy.size else 0.0


def _held(spans: np.ndarray[Any, Any], times_s: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Requests under way at each time."""
    begun, ended = np.sort(spans[:, 0]), np.sort(spans[:, 1])
    return np.searchsorted(begun, times_s, "right") - np.searchsorted(ended, times_s, "right")


def copies_table(found: Sequence[Copies]) -> Table:
    """One row per count."""
    table = Table(title="schedulers that do not talk to one another; emulated vLLM servers")
    for name in (
        "schedulers",
        "answered, 1/s",
        "P99 TTFT, s",
        "mean E2E, s",
        "decision p50 / p99, ms",
        "imbalance",
        "per instance",
        "fallbacks",
        "failed",
        "client late, ms",
    ):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            str(one.schedulers),
            f"{one.completed_per_s:.3f}",
            _figure(one.ttft_s, "p99", 1.0, 3),
            _figure(one.e2e_s, "mean", 1.0, 2),
            f"{_figure(one.decision_s, 'p50', 1e3, 1)} / {_figure(one.decision_s, 'p99', 1e3, 1)}",
            f"{one.imbalance:.3f}",
            " / ".join(map(str, one.per_instance)),
            str(one.fallbacks),
            str(one.failed),
            f"{one.client_late_s * 1e3:.0f}",
        )
    return table


def copies_summary(found: Sequence[Copies], rate_per_s: float) -> dict[str, Any]:
    """The last line; differences are against the first count."""
    base = found[0].completed_per_s
    return {
        "rate": rate_per_s,
        "throughput_against_first": [round(one.completed_per_s / base - 1, 5) for one in found],
        "copies": [asdict(one) for one in found],
    }


def _figure(distribution: Distribution | None, name: str, scale: float, digits: int) -> str:
    return "-" if distribution is None else f"{getattr(distribution, name) * scale:.{digits}f}"
