"""One recording: a folder with the engine's journal and the client's logs, and in the end a pack.

A load that is in the folder is not run again, so an interrupted recording goes on where it stopped. The
journal loses nothing to an interruption: the engine writes each batch when it has ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from block.errors import StateError
from block.latency.journal import pack_from_journal, read_journal
from block.latency.pack import COLUMNS, StepPack, save_pack
from exp.host_overheads import HostOverheads, StepTimes, measure_overheads
from exp.load import Load, capacity_per_s
from exp.run_log import RunLog
from exp.sweep import BURSTS, Sweep
from exp.time_left import TimeLeft
from exp.trial_server import TrialServer

BURST_S = 4.0
"""What a burst takes on the machine this was made on; only the time left is told by it."""
_DRAIN_S = 2.0
_LATE_S = 0.05
"""The last batch of a load may end this much after its last token was seen elsewhere."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A folder and what is to be recorded into it."""

    folder: Path
    sweep: Sweep
    room: int
    """The model's length in tokens."""
    data: Path
    """The optional data folder."""

    @property
    def journal(self) -> Path:
        """What the engine writes."""
        return self.folder / "steps.journal"

    @property
    def planned_s(self) -> float:
        """Seconds that the whole sweep will take, roughly."""
        return self.sweep.rounds * self.round_s

    @property
    def round_s(self) -> float:
        """The same of one round."""
        loads = self.sweep.loads(0, dict.fromkeys(BURSTS, 1.0))
        return len(BURSTS) * BURST_S + sum(load.duration_s + _DRAIN_S for load in loads)

    async def run(self, server: TrialServer, progress: TimeLeft) -> None:
        """All loads that are not in the folder yet; raises StateError if requests fail."""
        await server.warm_up(self.room)
        for turn in range(self.sweep.rounds):
            await self.run_round(turn, server, progress)

    async def run_round(self, turn: int, server: TrialServer, progress: TimeLeft) -> None:
        """One round of them; the first one tells the capacities for all."""
        bursts = [await self._run(server, load, progress, BURST_S) for load in self.sweep.bursts(turn)]
        if turn > 0:
            bursts = [RunLog.load(self._path(load)) for load in self.sweep.bursts(0)]
        capacities = {mix: capacity_per_s(run) for mix, run in zip(BURSTS, bursts, strict=True)}
        for load in self.sweep.loads(turn, capacities):
            await self._run(server, load, progress, load.duration_s + _DRAIN_S)

    def logs(self) -> list[RunLog]:
        """What clients saw of the loads so far."""
        return [RunLog.load(path) for path in sorted(self.folder.glob("load-*.jsonl"))]

    def finish(self, out: Path, notes: str = "") -> tuple[StepPack, HostOverheads]:
        """Write the pack of the loads' batches, and beside it the host's overheads.

        What else the engine did meanwhile, to warm up or for others, is left out.
        """
        pack, steps, logs = pack_from_journal(self.journal, notes), self._step_times(), self.logs()
        recorded = np.zeros(len(pack), dtype=bool)
        for log in logs:
            begin_s = log.header.start_monotonic_s
            end_s = begin_s + max(request.token_s[-1] for request in log.good) + _LATE_S
            recorded |= (steps.submit_s >= begin_s) & (steps.submit_s <= end_s)
        pack = replace(pack, **{name: getattr(pack, name)[recorded] for name in COLUMNS})
        overheads = measure_overheads(logs, steps)
        save_pack(out, pack)
        overheads.save(HostOverheads.beside(out))
        return pack, overheads

    async def _run(self, server: TrialServer, load: Load, progress: TimeLeft, seconds: float) -> RunLog:
        path = self._path(load)
        if path.exists():
            async with progress.part(f"{load.mix}: recorded before", seconds):
                return RunLog.load(path)
        async with progress.part(f"recording {load.name}", seconds):
            run = await server.run(load.workload(self.room, self.data), "real")
        if errors := [request.error for request in run.requests if request.error]:
            raise StateError(f"{load.name}: {len(errors)} requests failed, the first: {errors[0]}")
        await asyncio.to_thread(run.save, path)
        return run

    def _path(self, load: Load) -> Path:
        # By its seed alone: the rate hangs on a measured capacity and would differ after an interruption.
        return self.folder / f"load-{load.seed:04d}-{load.mix}.jsonl"

    def _step_times(self) -> StepTimes:
        rows = [row for session in read_journal(self.journal) for row in session.rows]
        columns = np.array(rows, dtype=np.float64).T
        return StepTimes(submit_s=columns[1], ready_s=columns[2], host_s=columns[4], requests=columns[-1])
