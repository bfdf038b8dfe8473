"""One recording: a folder with the engine's journal and the client's logs, and in the end a pack.

A load that is in the folder is not run again, so an interrupted recording goes on where it stopped. The
journal loses nothing to an interruption: the engine writes each batch when it has ended.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from block.errors import StateError
from block.latency.journal import pack_from_journal, read_journal
from block.latency.pack import StepPack, save_pack
from exp.host_overheads import HostOverheads, StepTimes, measure_overheads
from exp.load import Load, capacity_per_s
from exp.run_log import RunLog
from exp.sweep import BURSTS, Sweep
from exp.time_left import TimeLeft
from exp.trial_server import TrialServer

BURST_S = 8.0
"""What a burst takes on the machine this was made on; only the time left is told by it."""
_DRAIN_S = 3.0


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
        return len(BURSTS) * BURST_S + self.sweep.seconds + _DRAIN_S * len(BURSTS)

    async def run(self, server: TrialServer, progress: TimeLeft) -> None:
        """All loads that are not in the folder yet; raises StateError if requests fail."""
        await server.warm_up(self.room)
        capacities = {}
        for load in self.sweep.bursts():
            capacities[load.mix] = capacity_per_s(await self._run(server, load, progress, BURST_S))
        for load in self.sweep.loads(capacities):
            await self._run(server, load, progress, load.duration_s + _DRAIN_S)

    def logs(self) -> list[RunLog]:
        """What clients saw of the loads so far."""
        return [RunLog.load(path) for path in sorted(self.folder.glob("load-*.jsonl"))]

    def finish(self, out: Path, notes: str = "") -> tuple[StepPack, HostOverheads]:
        """Write the pack, and beside it the host's overheads."""
        pack = pack_from_journal(self.journal, notes)
        overheads = measure_overheads(self.logs(), self._step_times())
        save_pack(out, pack)
        overheads.save(HostOverheads.beside(out))
        return pack, overheads

    async def _run(self, server: TrialServer, load: Load, progress: TimeLeft, seconds: float) -> RunLog:
        # By its seed alone: the rate hangs on a measured capacity and would differ after an interruption.
        path = self.folder / f"load-{load.seed:04d}-{load.mix}.jsonl"
        if path.exists():
            async with progress.part(f"{load.mix}: recorded before", seconds):
                return RunLog.load(path)
        async with progress.part(f"recording {load.name}", seconds):
            run = await server.run(load.workload(self.room, self.data), "real")
        if errors := [request.error for request in run.requests if request.error]:
            raise StateError(f"{load.name}: {len(errors)} requests failed, the first: {errors[0]}")
        await asyncio.to_thread(run.save, path)
        return run

    def _step_times(self) -> StepTimes:
        rows = [row for session in read_journal(self.journal) for row in session.rows]
        columns = np.array(rows, dtype=np.float64).T
        return StepTimes(submit_s=columns[1], ready_s=columns[2], host_s=columns[4], requests=columns[-1])
