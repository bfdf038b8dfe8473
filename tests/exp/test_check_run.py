"""The order of an emulation check, and what of an interrupted one is kept; servers and packs are made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from exp import check_run
from exp.check_plan import Cell, CheckPlan
from exp.check_run import ModelCheck
from exp.recording import Recording
from exp.run_log import Clock, RequestLog, RunHeader, RunLog
from exp.time_left import TimeLeft
from exp.trial_engine import TrialEngine
from exp.workload import Workload

CELLS = (Cell("sharegpt", 0.5, 1.0, 1000), Cell("long-prompts", 0.4, 1.0, 1001))
DEVICE = Path(__file__).resolve().parents[2] / "config/latency/a30-llama-2-7b.yaml"
PLAN = CheckPlan(("tiny-llama",), record_s=6.0, cell_s=2.0, cells=CELLS, real_runs=2, emulated_runs=2)


@dataclass
class Story:
    """What happened, in order; ``fails_at`` is the event that a Ctrl-C meets."""

    events: list[str] = field(default_factory=list)
    fails_at: str = ""
    settings: list[str] = field(default_factory=list)
    """Of each server, as JSON."""

    def tell(self, event: str) -> None:
        if event == self.fails_at:
            raise KeyboardInterrupt
        self.events.append(event)


@dataclass
class FakeServer:
    story: Story
    executor: str
    model: str = "tiny-llama"

    async def warm_up(self, room: int) -> None:
        self.story.tell(f"{self.executor} warm")

    async def run(self, workload: Workload, clock: Clock, on_done: Any = None) -> RunLog:
        self.story.tell(f"{self.executor} {workload.source}")
        header = RunHeader(clock, workload.source, 0.0, 1.0, 0, 0.0, 0.0)
        return RunLog(header, (RequestLog(0.0, 0.0, 5, 2, (0.1, 0.2)),))


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    told = Story()

    @asynccontextmanager
    async def running(plan: Any, *_: Any) -> AsyncIterator[FakeServer]:
        told.settings.append(plan.argv[-1])
        yield FakeServer(told, plan.name.split()[0])

    async def run_round(self: Recording, turn: int, *_: Any) -> None:
        told.tell(f"round {turn}")

    def finish(self: Recording, out: Path) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(b"")

    monkeypatch.setattr(check_run, "running", running)
    monkeypatch.setattr(check_run, "_recorded", lambda path: (None, None))
    monkeypatch.setattr(Recording, "run_round", run_round)
    monkeypatch.setattr(Recording, "finish", finish)
    monkeypatch.setattr(ModelCheck, "_writer", None)
    monkeypatch.setattr(ModelCheck, "_loads", lambda self, *_: {c: c.load(1.0, 2.0) for c in CELLS})
    monkeypatch.setattr(ModelCheck, "_result", lambda self, cell, *_: cell)
    return told


async def check(folder: Path, device: Path | None = None) -> list[Any]:
    with TimeLeft(Console(quiet=True), 0.0) as progress:
        engine = TrialEngine(Path("tiny-llama"))
        model = ModelCheck(PLAN, engine, folder, Path("nowhere"), progress, device)
        return list(await model.run())


def cells(executor: str) -> list[str]:
    return [f"{executor} {cell.load(1.0, 2.0).name}" for cell in CELLS]


REAL = ["recording warm", "round 0", *cells("recording"), "round 1", *cells("recording"), "round 2"]
SAMPLED = ["emulated warm", *cells("emulated"), *cells("emulated")]
STEADY = ["emulated warm", *cells("emulated")]
EMULATED = [*SAMPLED, *STEADY]


async def test_rounds_of_recording_lie_around_the_real_runs_and_emulation_follows(
    story: Story, tmp_path: Path
) -> None:
    assert await check(tmp_path) == list(CELLS)
    assert story.events == REAL + EMULATED
    await check(tmp_path)
    assert story.events == REAL + EMULATED  # all is there: nothing is started


async def test_a_device_in_the_place_of_the_forward_pass_keeps_steadily_to_its_times(
    story: Story, tmp_path: Path
) -> None:
    await check(tmp_path, DEVICE)
    of_truth, sampled, steady = (json.loads(each)["block"] for each in story.settings)
    assert of_truth["emulation"] == {"latency": str(DEVICE), "steady": True}
    assert "record" in of_truth
    assert "steady" not in sampled["emulation"]
    assert steady["emulation"]["steady"]
    pack = str(tmp_path / "tiny-llama.npz")
    assert sampled["emulation"]["latency"] == steady["emulation"]["latency"] == pack


async def test_an_interruption_of_the_emulated_part_keeps_the_real_one(story: Story, tmp_path: Path) -> None:
    story.fails_at = cells("emulated")[1]
    with pytest.raises(KeyboardInterrupt):
        await check(tmp_path)
    story.events.clear()
    story.fails_at = ""
    await check(tmp_path)
    assert story.events == EMULATED


async def test_emulated_runs_that_are_whole_are_kept(story: Story, tmp_path: Path) -> None:
    await check(tmp_path)
    lost = [
        path for path in await asyncio.to_thread(lambda: list(tmp_path.iterdir())) if "steady" in path.name
    ]
    await asyncio.to_thread(lost[0].unlink)
    story.events.clear()
    await check(tmp_path)
    assert story.events == STEADY


async def test_an_interruption_of_the_real_part_begins_anew_as_the_process_is_another(
    story: Story, tmp_path: Path
) -> None:
    story.fails_at = "round 1"
    with pytest.raises(KeyboardInterrupt):
        await check(tmp_path)
    story.events.clear()
    story.fails_at = ""
    await check(tmp_path)
    assert story.events == REAL + EMULATED
