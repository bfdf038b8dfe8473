"""An emulation check as it happens: recording and real runs in turn, then emulated ones, then virtual time.

The engine that is judged by is the very process that was recorded: two processes of the same engine can
differ by a tenth, as their memory lies elsewhere, and no recording of one foretells the other. Recording
and judging alternate, as the machine's speed wanders by some percent from minute to minute. Every log lies
in the folder; a check whose logs are all there starts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from block.errors import StateError
from block.latency.oracle import StepOracle
from block.latency.pack import StepPack, load_pack
from block.types import BatchShape
from exp.check_plan import Cell, CheckPlan
from exp.check_result import CellResult
from exp.free_port import free_port
from exp.host_overheads import HostOverheads
from exp.load import Load, burst, capacity_per_s
from exp.prompt import PromptWriter
from exp.recording import Recording
from exp.run_log import Clock, RunLog
from exp.serving_metrics import ServingMetrics
from exp.sweep import Sweep
from exp.time_left import TimeLeft
from exp.trial_engine import Executor, TrialEngine
from exp.trial_server import TrialServer, running
from exp.virtual_clock import VirtualClock
from exp.workload import Workload

START_S = 25.0
"""What a server takes to start; only the time left is told by it."""
_DRAIN_S = 2.0
_BURST_REQUESTS = 48
_VIRTUAL_SEEDS = 8
_EMULATED: dict[str, dict[str, Any]] = {"emulated": {}, "steady": {"steady": True}}
"""Kinds of emulated runs, a server each, with its settings."""
_LIMIT_FACTOR, _LIMIT_EXTRA_S = 4.0, 120.0
"""A part that takes longer than this is given up."""


@dataclass(frozen=True)
class ModelCheck:
    """The check of one model, in a folder of its own."""

    plan: CheckPlan
    engine: TrialEngine
    folder: Path
    data: Path
    progress: TimeLeft
    device: Path | None = None
    """Step times of an emulated device to take for the truth; None is a real forward pass."""

    @property
    def pack_path(self) -> Path:
        """What the recording leaves, once the real engine's part is done."""
        return self.folder / f"{self.engine.served_name}.npz"

    @property
    def _first_pack_path(self) -> Path:
        """Of the rounds so far: enough to tell capacities from."""
        return self.folder / "recording" / "so-far.npz"

    @property
    def planned_s(self) -> float:
        """Seconds that are still to come, roughly."""
        if self._complete:
            return 1.0
        runs = len(self.plan.cells) * len(self._runs)
        return 3 * START_S + self._recording.planned_s + runs * (self.plan.cell_s + _DRAIN_S)

    async def run(self) -> list[CellResult]:
        """What the folder lacks, then the results; an unfinished real part begins anew.

        Raises StateError if the folder holds another check.
        """
        if self.pack_path.exists():
            self._refuse_another()
        else:
            self._begin()
            await self._measure_real()
        for kind, settings in _EMULATED.items():
            await self._measure_emulated(kind, settings)
        pack, clock = _recorded(self.pack_path)
        return [self._result(cell, load, pack, clock) for cell, load in self._loads(pack, clock).items()]

    @property
    def _begun_path(self) -> Path:
        return self.folder / "check.json"

    @property
    def _begun(self) -> dict[str, Any]:
        """What the real part hangs on; not how many runs of it are emulated."""
        plan = self.plan
        cells = [f"{cell.name} seed {cell.seed}" for cell in plan.cells]
        device = "" if self.device is None else sha256(self.device.read_bytes()).hexdigest()
        lengths = {"record_s": plan.record_s, "cell_s": plan.cell_s, "rounds": plan.rounds}
        return {"seed": plan.seed, **lengths, "cells": cells, "device": device}

    def _refuse_another(self) -> None:
        """Logs of other loads would pass for those that were asked for."""
        if not self._begun_path.exists():
            return
        try:
            begun = msgspec.json.decode(self._begun_path.read_bytes(), type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise StateError(f"{self._begun_path}: not what a check writes ({error})") from error
        now = self._begun
        names = [name for name, value in now.items() if begun.get(name) != value]
        if names:
            words = ", ".join(f"{name} {begun.get(name)}, not {now[name]}" for name in names)
            raise StateError(f"{self.folder}: holds another check: {words}; leave --no-again out")

    @property
    def _complete(self) -> bool:
        return self.pack_path.exists() and all(map(self._has, self._runs))

    def _has(self, run: str) -> bool:
        return all(self._path(cell, run).exists() for cell in self.plan.cells)

    def _begin(self) -> None:
        """A real server that starts anew is another process: nothing of the last one holds."""
        for path in sorted(self.folder.rglob("*")):
            if path.suffix in (".jsonl", ".json", ".npz", ".journal"):
                path.unlink()
        self._begun_path.write_bytes(msgspec.json.encode(self._begun))

    @property
    def _recording(self) -> Recording:
        sweep = Sweep(self.plan.record_s, self.plan.seed, self.plan.rounds)
        return Recording(self.folder / "recording", sweep, self.engine.max_model_len, self.data)

    def _loads(self, pack: StepPack, clock: VirtualClock) -> dict[Cell, Load]:
        """Rates hang on the capacity that the pack tells, not on a look at the engine under judgement."""
        path = self.folder / "capacity.json"
        if path.exists():
            capacity = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
        else:
            oracle = StepOracle(pack, seed=0)
            capacity = {
                mix: capacity_per_s(
                    clock.run(self._workload(burst(mix, _BURST_REQUESTS, seed=0)), _mean(oracle))
                )
                for mix in sorted(self.plan.mixes)
            }
            path.write_bytes(msgspec.json.encode(capacity))
        return {cell: cell.load(capacity[cell.mix], self.plan.cell_s) for cell in self.plan.cells}

    async def _measure_real(self) -> None:
        recording = self._recording
        settings: dict[str, Any] = {"record": {"journal": str(recording.journal)}}
        executor: Executor = "recording"
        if self.device is not None:
            executor = "recording-emulated"
            settings["emulation"] = {"latency": str(self.device.resolve()), "steady": True}
        async with self._server(executor, settings) as real:
            await real.warm_up(self.engine.max_model_len)
            for turn in range(self.plan.rounds):
                await recording.run_round(turn, real, self.progress)
                if turn < self.plan.real_runs:
                    await asyncio.to_thread(recording.finish, self._first_pack_path)
                    await self._measure_cells(real, f"real-{turn}", self._first_pack_path)
        await asyncio.to_thread(recording.finish, self.pack_path)

    async def _measure_emulated(self, kind: str, settings: dict[str, Any]) -> None:
        missing = [name for name in self._runs if name.startswith(kind) and not self._has(name)]
        if not missing:
            return
        emulation = {"latency": str(self.pack_path), "seed": self.plan.seed, **settings}
        async with self._server("emulated", {"emulation": emulation}) as emulated:
            await emulated.warm_up(self.engine.max_model_len)
            for name in missing:
                await self._measure_cells(emulated, name, self.pack_path)

    async def _measure_cells(self, server: TrialServer, name: str, pack: Path) -> None:
        loads = await asyncio.to_thread(lambda: self._loads(*_recorded(pack)))
        for cell, load in loads.items():
            await self._measure_one(server, cell, load, name)

    async def _measure_one(self, server: TrialServer, cell: Cell, load: Load, name: str) -> None:
        clock: Clock = "real" if name.startswith("real") else "emulated"
        async with self._part(f"{server.model}: {cell.name}, {name}", load.duration_s + _DRAIN_S):
            run = await server.run(self._workload(load), clock)
        await asyncio.to_thread(run.save, self._path(cell, name))

    def _server(
        self, executor: Executor, settings: dict[str, Any]
    ) -> AbstractAsyncContextManager[TrialServer]:
        plan = self.engine.plan(executor, free_port(), self.folder / f"{executor}.log", settings)
        starting = self._part(f"{self.engine.served_name}: starting the {plan.name}", START_S)
        return running(plan, self.engine.served_name, self._writer, starting)

    def _result(self, cell: Cell, load: Load, pack: StepPack, clock: VirtualClock) -> CellResult:
        logs = {name: RunLog.load(self._path(cell, name)) for name in self._runs}
        metrics = {
            kind: tuple(ServingMetrics.of(log) for name, log in logs.items() if name.startswith(kind))
            for kind in ("real", *_EMULATED)
        }
        workload = self._workload(load)
        seeds = range(_VIRTUAL_SEEDS)
        virtual = [clock.run(workload, _sampled(StepOracle(pack, seed))) for seed in seeds]
        virtual[0].save(self._path(cell, "virtual"))
        emulated_s = [log.header.wall_s for name, log in logs.items() if name.startswith("emulated")]
        return CellResult(
            model=self.engine.served_name,
            cell=cell,
            **metrics,
            virtual=tuple(map(ServingMetrics.of, virtual)),
            virtual_steady=ServingMetrics.of(clock.run(workload, _mean(StepOracle(pack, seed=0)))),
            emulated_s=sum(emulated_s) / len(emulated_s),
            # The median: the first run may meet cold caches.
            virtual_s=sorted(log.header.wall_s for log in virtual)[len(virtual) // 2],
            other_cores=max(log.header.other_cores for log in logs.values()),
        )

    @property
    def _runs(self) -> list[str]:
        plan = self.plan
        counts = {"real": plan.real_runs, "emulated": plan.emulated_runs, "steady": plan.steady_runs}
        return [f"{clock}-{turn}" for clock, count in counts.items() for turn in range(count)]

    def _path(self, cell: Cell, name: str) -> Path:
        return self.folder / f"{cell.seed}-{cell.name.replace(' ', '-').replace('%', '')}-{name}.jsonl"

    def _part(self, name: str, seconds: float) -> AbstractAsyncContextManager[None]:
        return self.progress.part(name, seconds, _LIMIT_FACTOR * seconds + _LIMIT_EXTRA_S)

    def _workload(self, load: Load) -> Workload:
        return load.workload(self.engine.max_model_len, self.data)

    @property
    def _writer(self) -> PromptWriter:
        return PromptWriter(self.engine.model / "tokenizer.json")


def _recorded(path: Path) -> tuple[StepPack, VirtualClock]:
    pack, host = load_pack(path), HostOverheads.load(HostOverheads.beside(path))
    return pack, VirtualClock(pack.header.limits, host)


def _mean(oracle: StepOracle) -> Callable[[BatchShape], float]:
    return lambda shape: oracle.mean(shape).seconds


def _sampled(oracle: StepOracle) -> Callable[[BatchShape], float]:
    return lambda shape: oracle.sample(shape).seconds
