"""A recording that is interrupted goes on where it stopped."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packs import HEADER
from rich.console import Console

from block.errors import InstanceError, PackError, StateError
from block.latency.journal import JournalWriter
from exp import recording as recording_module
from exp.record import app
from exp.recording import Recording
from exp.run_log import Clock, RequestLog, RunHeader, RunLog
from exp.sweep import BURSTS, Sweep
from exp.time_left import TimeLeft
from exp.workload import Workload


class FakeServer:
    """Answers every load at once; stops, as by Ctrl-C, after a number of loads."""

    def __init__(self, journal: Path, stops_after: int | None = None, error: str = "") -> None:
        self.sources: list[str] = []
        self._journal = journal
        self._stops_after = stops_after
        self._error = error

    async def warm_up(self, room: int) -> None:
        with self._journal.open("ab") as file:
            file.write(b"a batch")

    async def run(self, workload: Workload, clock: Clock, on_done: Any = None) -> RunLog:
        if len(self.sources) == self._stops_after:
            raise KeyboardInterrupt
        self.sources.append(workload.source)
        header = RunHeader(clock, workload.source, 100.0, 1.0, 0, 0.0, 0.0)
        requests = [
            RequestLog(r.arrival_s, r.arrival_s, 5, 2, (index + 1.0, index + 2.0), self._error)
            for index, r in enumerate(workload.requests)
        ]
        return RunLog(header, tuple(requests))


async def record(recording: Recording, server: Any) -> str:
    out = io.StringIO()
    with TimeLeft(Console(file=out, width=100), recording.left_s) as progress:
        await recording.run(server, progress)
    return out.getvalue()


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path, Sweep(20.0, seed=3), 1024, Path("nowhere"))


async def test_what_was_recorded_is_not_run_again(recording: Recording) -> None:
    first = FakeServer(recording.journal, stops_after=6)
    second, third = (FakeServer(recording.journal) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        await record(recording, first)
    left_s = recording.left_s
    shown = await record(recording, second)
    assert "recorded before" in shown
    assert 0 < told_left_s(shown)[0] == round(left_s) < recording.planned_s - 6
    assert not set(first.sources) & set(second.sources)
    total = 3 * (len(BURSTS) + len(Sweep(20.0).loads(0, dict.fromkeys(BURSTS, 1.0))))
    assert len(first.sources) + len(second.sources) == total == len(recording.logs())
    await record(recording, third)
    assert third.sources == []
    assert recording.left_s == 0


def told_left_s(shown: str) -> list[int]:
    lines = [line for line in shown.splitlines() if line.startswith("recording ")]
    left = [line.split("about ")[1].split(" left")[0] for line in lines]
    return [60 * int(minutes) + int(rest) for minutes, rest in (each.split(":") for each in left)]


async def test_the_time_left_is_told_before_each_load(recording: Recording) -> None:
    seconds = told_left_s(await record(recording, FakeServer(recording.journal)))
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] == round(recording.planned_s)


async def test_failed_requests_end_a_recording_and_leave_no_log_of_it(recording: Recording) -> None:
    with pytest.raises(StateError, match="requests failed, the first: no connection"):
        await record(recording, FakeServer(recording.journal, error="no connection"))
    assert recording.logs() == []


@pytest.mark.parametrize(
    ("sweep", "room", "named"),
    [
        (Sweep(60.0, seed=3), 1024, r"another recording: seconds 20\.0, not 60\.0;"),
        (Sweep(20.0, seed=4), 1024, "seed 3, not 4;"),
        (
            Sweep(20.0, seed=3, max_num_seqs=64),
            2048,
            "max_num_seqs 16, not 64, max_model_len 1024, not 2048;",
        ),
    ],
)
async def test_another_recording_does_not_go_on_in_the_folder(
    recording: Recording, sweep: Sweep, room: int, named: str
) -> None:
    await record(recording, FakeServer(recording.journal))
    server = FakeServer(recording.journal)
    with pytest.raises(StateError, match=named):
        await record(replace(recording, sweep=sweep, room=room), server)
    assert server.sources == []


async def test_after_a_restart_of_the_machine_times_are_not_mixed(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        await record(recording, FakeServer(recording.journal, stops_after=3))
    (tmp_path / "boot_id").write_text("another")
    monkeypatch.setattr(recording_module, "_BOOT", tmp_path / "boot_id")
    with pytest.raises(StateError, match="before this machine was started again"):
        await record(recording, FakeServer(recording.journal))


async def test_a_server_that_writes_another_journal_is_not_loaded(
    recording: Recording, tmp_path: Path
) -> None:
    server = FakeServer(tmp_path / "elsewhere")
    with pytest.raises(StateError, match=r"steps\.journal: the server does not write it"):
        await record(recording, server)
    assert server.sources == []


def test_the_engines_limits_are_taken_from_what_it_writes(recording: Recording) -> None:
    with pytest.raises(PackError, match=r"steps\.journal: cannot be read"):
        recording.of_its_engine()
    JournalWriter(recording.journal, HEADER).close()
    fitted = recording.of_its_engine()
    assert fitted.room == HEADER.limits.max_model_len == 4096
    counts = [round(load.rate_per_s * load.duration_s) for load in fitted.sweep.bursts(0)]
    assert counts == [72, 96, 30, 18], "for batches of 48 requests"
    assert [round(load.rate_per_s * load.duration_s) for load in recording.sweep.bursts(0)] == [24, 32, 10, 6]


def test_the_loads_cover_idle_to_full_and_all_mixes_in_every_round() -> None:
    capacity, sweep = {"sharegpt": 4.0, "short": 12.0, "deep": 1.0, "prompts": 2.0}, Sweep(100.0, rounds=2)
    rounds = [sweep.loads(turn, capacity) for turn in range(2)]
    for loads in rounds:
        shares = [load.rate_per_s / capacity[load.mix] for load in loads]
        assert min(shares) < 0.1
        assert max(shares) >= 0.9
        assert {load.mix for load in loads} == set(capacity) == set(BURSTS)
        assert sum(load.duration_s for load in loads) == pytest.approx(50.0)
    everything = [load for turn in range(2) for load in (*sweep.bursts(turn), *rounds[turn])]
    assert len({load.seed for load in everything}) == len(everything)


def test_a_server_that_is_not_there_is_said_not_to_be(tmp_path: Path, tokenizer_file: Path) -> None:
    arguments = ["--model", str(tokenizer_file.parent), "--port", "1", "--folder", str(tmp_path / "run")]
    with pytest.raises(InstanceError, match="--port 1: no server answers there"):
        app([*arguments, "--out", str(tmp_path / "x.npz")], standalone_mode=False)
