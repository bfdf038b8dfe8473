"""One engine under rising load, what was predicted and what came: behind the router, or simulated.

Behind the router each load is sent twice. The second run is the same requests at the same times: how far
the two lie apart is what no prediction could know, the noise floor of this engine on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from block.latency.base import StepLatencyModel
from block.simulation.expectation import WINDOW_S
from block.types import EngineLimits
from deploy.local import LocalCluster
from deploy.plan import ClusterPlan
from deploy.state import ProcessState
from exp.client import LoadClient
from exp.cores import Cores, pin, pinned_here
from exp.outcome import Outcome
from exp.prompt import PromptWriter
from exp.target import Target
from exp.virtual_prediction import VirtualPredictions, capacity_per_s
from exp.workload import TraceRequest, Workload, WorkloadSpec, load_workload

POLICY = "block"
RUNS = 2
_BURST = 64
"""Requests sent at once to find the engine's capacity."""
_SIMULATED_REQUESTS = 500
_FEWEST = 24
"""Requests judged per run, roughly."""
LEAD_S = WINDOW_S
"""Of each run, not judged: the load has just jumped, and the rate that predictors expect is of both loads."""


@dataclass(frozen=True, slots=True)
class Level:
    """A load, as a share of the engine's capacity."""

    name: str
    share: float


LEVELS = (
    Level("idle", 0.1),
    Level("light", 0.3),
    Level("half", 0.6),
    Level("busy", 0.85),
    Level("saturated", 1.1),
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent: recorded or generated lengths, shortened to what the engine can take."""

    data: Path
    seed: int
    prompt_scale: float = 1.0
    output_scale: float = 1.0
    most_tokens: int = 4000

    def workload(self, count: int, rate_per_s: float, part: int) -> Workload:
        """``part`` is a seed of its own, so that no two levels send the same."""
        spec = WorkloadSpec(count, rate_per_s, self.data, self.seed * 1000 + part)
        drawn = load_workload("auto", spec)
        return replace(drawn, requests=tuple(self._shortened(request) for request in drawn.requests))

    def _shortened(self, request: TraceRequest) -> TraceRequest:
        output = max(1, min(round(request.output_tokens * self.output_scale), self.most_tokens // 2))
        prompt = max(1, min(round(request.prompt_tokens * self.prompt_scale), self.most_tokens - output))
        return replace(request, prompt_tokens=prompt, output_tokens=output)


@dataclass(frozen=True, slots=True)
class LevelRuns:
    """The outcomes of one level, each run in the workload's order."""

    level: Level
    rate_per_s: float
    runs: tuple[tuple[Outcome, ...], ...]
    lead_s: float = 0.0
    """Requests that came before this are not judged: the load had just jumped."""

    @property
    def judged(self) -> tuple[tuple[Outcome, ...], ...]:
        """The runs without their lead."""
        return tuple(
            tuple(outcome for outcome in run if outcome.request.arrival_s >= self.lead_s) for run in self.runs
        )


@dataclass(frozen=True, slots=True)
class PredictionRun:
    """A cluster of one engine and the traffic it gets."""

    plan: ClusterPlan
    traffic: Traffic
    seconds: float
    """How long requests that are judged keep coming in one run of a level."""
    levels: Sequence[Level] = LEVELS

    async def run(self, on_progress: Callable[[str, float], None]) -> list[LevelRuns]:
        """Start, warm up, find the capacity, run every level; ``on_progress``: what runs, its share done."""
        cores = Cores.of_this_machine()
        async with LocalCluster(self.plan) as cluster:
            for process in cluster.state.processes:
                _pin(process, cores)
            writer = PromptWriter(self.plan.model / "tokenizer.json")
            target = Target.of(self.plan.openai_base_url, self.plan.served_model_name, "chat")
            with pinned_here(cores.front):
                return await self._run_levels(LoadClient(target, writer), on_progress)

    async def _run_levels(
        self, client: LoadClient, on_progress: Callable[[str, float], None]
    ) -> list[LevelRuns]:
        on_progress("warm-up", 0.0)
        capacity_per_s = await self._capacity_per_s(client)
        # The first load of each kind is for the calibration to learn from, and is not judged.
        await client.run(self._workload(0.6 * capacity_per_s, 99), POLICY)
        results = []
        for part, level in enumerate(self.levels):
            rate_per_s = level.share * capacity_per_s
            workload = self._workload(rate_per_s, part)
            runs = []
            for run in range(RUNS):
                on_progress(f"{level.name} {run + 1}", (RUNS * part + run) / (RUNS * len(self.levels)))
                runs.append((await client.run(workload, POLICY)).outcomes)
            results.append(LevelRuns(level, rate_per_s, tuple(runs), LEAD_S))
        return results

    async def _capacity_per_s(self, client: LoadClient) -> float:
        """Requests per second that a full engine completes: between the first and the third quarter."""
        burst = self.traffic.workload(_BURST, 1.0, 98)
        at_once = replace(burst, requests=tuple(replace(r, arrival_s=0.0) for r in burst.requests))
        await client.run(at_once, POLICY)
        outcomes = (await client.run(at_once, POLICY)).outcomes
        ends = sorted(outcome.e2e_s for outcome in outcomes if outcome.e2e_s is not None)
        return (_BURST // 2) / (ends[3 * _BURST // 4] - ends[_BURST // 4])

    def _workload(self, rate_per_s: float, part: int) -> Workload:
        judged = max(_FEWEST, rate_per_s * self.seconds)
        return self.traffic.workload(round(rate_per_s * LEAD_S + judged), rate_per_s, part)


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """The same without a server: an engine and a predictor in virtual time, which need no second run."""

    limits: EngineLimits
    model: StepLatencyModel
    traffic: Traffic
    levels: Sequence[Level] = LEVELS
    expect_arrivals: bool = True

    def run(self, on_progress: Callable[[str, float], None]) -> list[LevelRuns]:
        """Every level, once."""
        burst = self.traffic.workload(4 * _BURST, 1.0, 98)
        capacity = capacity_per_s(self.limits, self.model, burst.requests)
        results = []
        for part, level in enumerate(self.levels):
            on_progress(level.name, part / len(self.levels))
            workload = self.traffic.workload(_SIMULATED_REQUESTS, level.share * capacity, part)
            world = VirtualPredictions(
                self.limits, self.model, workload.requests, expect_arrivals=self.expect_arrivals
            )
            results.append(LevelRuns(level, level.share * capacity, (tuple(world.run()),)))
        return results


def _pin(process: ProcessState, cores: Cores) -> None:
    if process.pid is None:
        return
    if process.role == "engine":
        cores.pin_server(process.pid)
    else:
        pin([psutil.Process(process.pid)], cores.front)
