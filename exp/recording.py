"""One recording: a folder with the engine's journal and the client's logs, and in the end a pack.

A load that is in the folder is not run again, so an interrupted recording goes on where it stopped; what is
being recorded lies there too, so that no other recording goes on with it. The journal loses nothing to an
interruption: the engine writes each batch when it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec
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
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _Begun(msgspec.Struct, frozen=True):
    """What a folder records; all of it must stay the same for a recording to be gone on with."""

    seconds: float
    seed: int
    rounds: int
    max_num_seqs: int
    max_model_len: int
    boot: str
    """Of the machine since its last start, which is when its clock began: times are compared by it."""


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
        return sum(seconds for _, seconds in self._planned())

    @property
    def left_s(self) -> float:
        """The same of what is not in the folder yet."""
        return sum(seconds for load, seconds in self._planned() if not self._path(load).exists())

    def of_its_engine(self) -> Self:
        """With the limits of the engine that writes the journal; raises PackError if none has begun one."""
        limits = read_journal(self.journal)[-1].header.limits
        sweep = replace(self.sweep, max_num_seqs=limits.max_num_seqs)
        return replace(self, room=limits.max_model_len, sweep=sweep)

    def begin(self) -> None:
        """Write down what is recorded here; raises StateError if something else was."""
        path, sweep = self.folder / "recording.json", self.sweep
        boot = _BOOT.read_text(encoding="ascii").strip() if _BOOT.exists() else ""
        now = _Begun(sweep.seconds, sweep.seed, sweep.rounds, sweep.max_num_seqs, self.room, boot)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.encode(now) + b"\n")
            return
        try:
            begun = msgspec.json.decode(path.read_bytes(), type=_Begun)
        except msgspec.MsgspecError as error:
            raise StateError(f"{path}: not what a recording writes ({error}); record elsewhere") from error
        if begun != now:
            raise StateError(f"{self.folder}: {_why_not(begun, now)}; record into another folder")

    async def run(self, server: TrialServer, progress: TimeLeft) -> None:
        """All loads that are not in the folder yet.

        Raises StateError if requests fail, if the folder holds another recording, or if the server does not
        write the journal.
        """
        self.begin()
        before = self._written_bytes
        await server.warm_up(self.room)
        if self._written_bytes == before:
            raise StateError(f"{self.journal}: the server does not write it; give the server this journal")
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
            async with progress.part(f"{load.mix}: recorded before", 0.0):
                return RunLog.load(path)
        async with progress.part(f"recording {load.name}", seconds):
            run = await server.run(load.workload(self.room, self.data), "real")
        if errors := [request.error for request in run.requests if request.error]:
            raise StateError(f"{load.name}: {len(errors)} requests failed, the first: {errors[0]}")
        await asyncio.to_thread(run.save, path)
        return run

    def _planned(self) -> Iterator[tuple[Load, float]]:
        """Loads of all rounds, at rates that are not known yet, and their seconds."""
        for turn in range(self.sweep.rounds):
            yield from ((load, BURST_S) for load in self.sweep.bursts(turn))
            loads = self.sweep.loads(turn, dict.fromkeys(BURSTS, 1.0))
            yield from ((load, load.duration_s + _DRAIN_S) for load in loads)

    @property
    def _written_bytes(self) -> int:
        return self.journal.stat().st_size if self.journal.exists() else 0

    def _path(self, load: Load) -> Path:
        # By its seed alone: the rate hangs on a measured capacity and would differ after an interruption.
        return self.folder / f"load-{load.seed:04d}-{load.mix}.jsonl"

    def _step_times(self) -> StepTimes:
        rows = [row for session in read_journal(self.journal) for row in session.rows]
        columns = np.array(rows, dtype=np.float64).T
        return StepTimes(submit_s=columns[1], ready_s=columns[2], host_s=columns[4], requests=columns[-1])


def _why_not(begun: _Begun, now: _Begun) -> str:
    if begun.boot != now.boot:
        return "begun before this machine was started again, and its clock with it"
    names = [name for name in begun.__struct_fields__ if getattr(begun, name) != getattr(now, name)]
    words = ", ".join(f"{name} {getattr(begun, name)}, not {getattr(now, name)}" for name in names)
    return f"holds another recording: {words}"
