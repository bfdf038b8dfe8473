"""How long decisions take with everything else on the machine: predictors, their engines' feeds, streams.

Each instance is a paced mock engine with a feed of its own and a real predictor process; a real scheduler
asks them all for every request of an open-loop load. Times are the scheduler's own, from its answers.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from rich.table import Table

from block.config import ClusterConfig
from exp import paced_engine
from exp.decision_load import DecisionLoad, Decisions, send_decisions
from exp.other_work import OtherWork
from exp.paced_engine import Pace
from exp.predictor_process import RunningPredictor, running_together
from exp.router_process import RouterCommand, RunningRouter, running

LATENCY = Path(__file__).resolve().parent.parent / "config" / "latency" / "a30-llama-2-7b.yaml"
WARM_S = 6.0
"""Load before the measurement, at most as long: commitments, calibration, expected arrivals settle."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Busy cores on average, by who kept them busy."""

    scheduler: float
    predictors: float
    engines: float
    load: float
    others: float

    def per_request_ms(self, qps: float) -> dict[str, float]:
        """CPU time of the bench's own processes for each request, by who spent it."""
        own = {name: getattr(self, name) for name in ("scheduler", "predictors", "engines", "load")}
        return {name: round(cores * 1000 / qps, 3) for name, cores in own.items()}


@dataclass(frozen=True, slots=True)
class DecisionResult:
    """One measurement."""

    predictors: int
    processes: int
    """Of the predictors."""
    qps: float
    decisions: Decisions
    cores: Cores

    @property
    def percentiles_ms(self) -> tuple[float, float, float]:
        """p50, p90, p99."""
        p50, p90, p99 = np.percentile(self.decisions.took_ms or [float("nan")], [50, 90, 99]).tolist()
        return p50, p90, p99

    def table(self) -> Table:
        """For people."""
        title = f"{self.predictors} predictors in {self.processes} processes, {self.qps:g} requests/s"
        table = Table(title=title, title_justify="left")
        for title in ("decisions", "p50 ms", "p90 ms", "p99 ms", "unpredicted", "errors"):
            table.add_column(title, justify="right")
        for title in ("scheduler", "predictors", "engines", "load", "others"):
            table.add_column(f"cores: {title}", justify="right")
        cores = self.cores
        table.add_row(
            str(len(self.decisions.took_ms)),
            *(f"{value:.2f}" for value in self.percentiles_ms),
            str(self.decisions.unpredicted),
            str(len(self.decisions.errors)),
            *(
                f"{value:.2f}"
                for value in (cores.scheduler, cores.predictors, cores.engines, cores.load, cores.others)
            ),
        )
        return table

    def summary(self) -> dict[str, Any]:
        """The last line."""
        p50, _, p99 = self.percentiles_ms
        unusual = self.processes != usual_processes(self.predictors)
        return {
            "predictors": self.predictors,
            **({"predictor_processes": self.processes} if unusual else {}),
            "qps": self.qps,
            "p50_ms": round(p50, 3),
            "p99_ms": round(p99, 3),
            "unpredicted": self.decisions.unpredicted,
            "errors": len(self.decisions.errors),
            "cpu_ms_per_request": self.cores.per_request_ms(self.qps),
            "other_cores": round(self.cores.others, 2),
        }


def usual_processes(predictors: int) -> int:
    """In how many block-deploy puts the predictors of one machine, by default."""
    together: int = ClusterConfig.model_fields["predictors_per_process"].default
    return math.ceil(predictors / together)


@dataclass(frozen=True, slots=True)
class DecisionBench:
    """``run`` it once."""

    predictors: int
    processes: int
    """In which they are."""
    load: DecisionLoad
    seconds: float
    pace: Pace
    policy: str
    quorum: int | None = None
    """Answers after which a decision waits little more."""

    def run(self) -> DecisionResult:
        """Raises ConfigError if a part does not come up."""
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            place = Path(folder)
            engines, urls, feeds = stack.enter_context(_engines(self.predictors, self.pace, place))
            sidecars = _sidecars(stack, feeds, self.processes, place)
            command = RouterCommand.ours(self.policy, [sidecar.url for sidecar in sidecars], self.quorum)
            router = stack.enter_context(running(command, urls, place))
            return self._measure(router, engines, sorted({sidecar.process.pid for sidecar in sidecars}))

    def _measure(
        self, router: RunningRouter, engines: Sequence[int], sidecars: Sequence[int]
    ) -> DecisionResult:
        groups = [
            _Group([router.process.pid]),
            _Group(sidecars),
            _Group(engines),
            _Group([os.getpid()]),
        ]
        others = OtherWork()
        decisions = uvloop.run(send_decisions(router.url, self.load, self.seconds, min(WARM_S, self.seconds)))
        scheduler, asked, answering, load = (group.cores() for group in groups)
        cores = Cores(scheduler, asked, answering, load, others.cores)
        return DecisionResult(self.predictors, self.processes, self.load.rate_per_s, decisions, cores)


class _Group:
    """Processes whose CPU time is counted from here on."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._begun_s, self._before_s = time.monotonic(), self._cpu_s()

    def cores(self) -> float:
        return (self._cpu_s() - self._before_s) / (time.monotonic() - self._begun_s)

    def _cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(each.user + each.system for each in times)


def _sidecars(stack: ExitStack, feeds: Sequence[str], processes: int, folder: Path) -> list[RunningPredictor]:
    """A predictor for each feed, in their order. The first process compiles, if that is due: all at once
    would take too long.
    """
    sidecars: dict[str, RunningPredictor] = {}
    for number in range(processes):
        named = {f"mock-{index}": feeds[index] for index in range(number, len(feeds), processes)}
        together = stack.enter_context(running_together(named, LATENCY, folder))
        sidecars |= zip(named, together, strict=True)
        if number == 0:
            together[0].until_ready()
    for sidecar in sidecars.values():
        sidecar.until_ready()
    return [sidecars[f"mock-{index}"] for index in range(len(feeds))]


@contextmanager
def _engines(count: int, pace: Pace, folder: Path) -> Iterator[tuple[list[int], list[str], list[str]]]:
    """Process ids, URLs and feed addresses."""
    feeds = [f"ipc://{folder}/feed-{index}" for index in range(count)]
    started = [paced_engine.start(f"engine-{index}", feed, pace) for index, feed in enumerate(feeds)]
    try:
        yield [process.pid or 0 for process, _ in started], [url for _, url in started], feeds
    finally:
        for process, _ in started:
            process.terminate()
            process.join()
