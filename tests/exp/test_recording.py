"""A recording that is interrupted goes on where it stopped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from block.errors import StateError
from exp.recording import Recording
from exp.run_log import Clock, RequestLog, RunHeader, RunLog
from exp.sweep import BURSTS, Sweep
from exp.time_left import TimeLeft
from exp.workload import Workload


class FakeServer:
    """Answers every load at once; stops, as by Ctrl-C, after a number of loads."""

    def __init__(self, stops_after: int | None = None, error: str = "") -> None:
        self.sources: list[str] = []
        self._stops_after = stops_after
        self._error = error

    async def warm_up(self, room: int) -> None:
        """Nothing is cold."""

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
    with TimeLeft(Console(file=out, width=100), recording.planned_s) as progress:
        await recording.run(server, progress)
    return out.getvalue()


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path, Sweep(20.0, seed=3), 1024, Path("nowhere"))


async def test_what_was_recorded_is_not_run_again(recording: Recording) -> None:
    first, second, third = FakeServer(stops_after=6), FakeServer(), FakeServer()
    with pytest.raises(KeyboardInterrupt):
        await record(recording, first)
    shown = await record(recording, second)
    assert "recorded before" in shown
    assert not set(first.sources) & set(second.sources)
    total = 3 * (len(BURSTS) + len(Sweep(20.0).loads(0, dict.fromkeys(BURSTS, 1.0))))
    assert len(first.sources) + len(second.sources) == total == len(recording.logs())
    await record(recording, third)
    assert third.sources == []


async def test_the_time_left_is_told_before_each_load(recording: Recording) -> None:
    shown = await record(recording, FakeServer())
    lines = [line for line in shown.splitlines() if line.startswith("recording ")]
    left = [line.split("about ")[1].split(" left")[0] for line in lines]
    seconds = [60 * int(minutes) + int(rest) for minutes, rest in (each.split(":") for each in left)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] == round(recording.planned_s)


async def test_failed_requests_end_a_recording_and_leave_no_log_of_it(recording: Recording) -> None:
    with pytest.raises(StateError, match="requests failed, the first: no connection"):
        await record(recording, FakeServer(error="no connection"))
    assert recording.logs() == []


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
