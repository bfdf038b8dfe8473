"""Running the cells of a spec: each once, over processes, through interruptions of any kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from toy_backend import SlowBackend, ToyBackend, asked

from block.errors import ConfigError, StateError
from exp.experiment import run_folder
from exp.experiment.backend import Factory, Surroundings
from exp.experiment.run_folder import RunFolder
from exp.experiment.runner import Runner
from exp.experiment.spec import ExperimentSpec, PolicyVariant

SPEC = ExperimentSpec(
    title="test",
    requests=4,
    policies={"block": PolicyVariant(), "random": PolicyVariant()},
    rates_per_s=(1.0, 2.0, 3.0),
)
CELLS = list(SPEC.cells())


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "asked"
    folder.mkdir()
    return folder


def folder_in(tmp_path: Path, spec: ExperimentSpec = SPEC) -> RunFolder:
    folder = RunFolder(tmp_path / "out")
    folder.open(spec, "toy")
    return folder


def runner(scratch: Path, factory: Factory = ToyBackend, workers: int = 1) -> Runner:
    around = Surroundings(Path("nowhere"), scratch=scratch)
    return Runner(factory, around, workers, Console(file=StringIO()))


def test_each_cell_runs_once_and_what_is_there_is_left_alone(tmp_path: Path, scratch: Path) -> None:
    folder = folder_in(tmp_path)
    assert runner(scratch).run(CELLS[:2], folder) == 2
    assert runner(scratch).run(CELLS, folder) == 4
    assert runner(scratch).run(CELLS, folder) == 0
    assert set(Counter(asked(scratch)).values()) == {1}
    assert all(folder.load(cell).num_rows == 4 for cell in CELLS)
    assert (scratch / f"closed.{os.getpid()}").exists()


def test_cells_are_shared_between_processes(tmp_path: Path, scratch: Path) -> None:
    folder = folder_in(tmp_path)
    assert runner(scratch, SlowBackend, workers=2).run(CELLS, folder) == 6
    pids = {path.name.split(".")[1] for path in scratch.iterdir() if not path.name.startswith("closed")}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids


def test_a_run_that_is_killed_goes_on_where_it_was_and_leaves_no_process(
    tmp_path: Path, scratch: Path
) -> None:
    code = (
        "from test_runner import *\n"
        "if __name__ == '__main__':\n"
        f"    folder = folder_in(Path({str(tmp_path)!r}))\n"
        f"    runner(Path({str(scratch)!r}), SlowBackend, 2).run(CELLS, folder)\n"
    )
    here = Path(__file__).resolve()
    script = tmp_path / "begin.py"
    script.write_text(code)
    path = os.pathsep.join(map(str, (here.parent, here.parents[2] / "support", here.parents[3])))
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path})
    done = tmp_path / "out" / "cells"
    deadline_s = time.monotonic() + 60
    while len(list(done.glob("*.parquet")) if done.exists() else []) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []

    before = {path.name for path in done.glob("*.parquet")}
    again = runner(scratch).run(CELLS, folder_in(tmp_path))
    assert again == len(CELLS) - len(before)
    assert len(list(done.glob("*.parquet"))) == len(CELLS)
    assert list(done.glob("*.partial")) == []


def test_what_a_report_shows_may_change_after_the_run(tmp_path: Path, scratch: Path) -> None:
    runner(scratch).run(CELLS, folder_in(tmp_path))
    told = SPEC.model_copy(update={"notes": "Read this.", "slo_ttft_s": (5.0,), "baselines": ("random",)})
    folder = folder_in(tmp_path, told)
    assert folder.spec == told
    assert runner(scratch).run(list(told.cells()), folder) == 0


def test_seeds_may_be_added_to_a_run(tmp_path: Path, scratch: Path) -> None:
    more = SPEC.model_copy(update={"seeds": (*SPEC.seeds, 9)})
    runner(scratch).run(CELLS, folder_in(tmp_path))
    folder = folder_in(tmp_path, more)
    assert runner(scratch).run(list(more.cells()), folder) == len(CELLS) // len(SPEC.seeds)
    assert folder.spec.seeds == more.seeds


def test_cells_of_other_code_are_kept_and_told_of(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_in(tmp_path)
    runner(scratch).run(CELLS[:2], folder)
    same, others = runner(scratch), runner(scratch)
    assert same.run(CELLS[:4], folder) == 2
    monkeypatch.setattr(run_folder, "sources_digest", lambda: "another")
    assert others.run(CELLS, folder) == 2
    told = [
        each.console.file.getvalue() for each in (same, others) if isinstance(each.console.file, StringIO)
    ]
    assert ["made by other code" in text for text in told] == [False, True]
    assert "4 cells were made by other code; name another folder" in told[1]


def test_another_spec_or_a_strange_file_is_not_taken_for_this_one(tmp_path: Path, scratch: Path) -> None:
    folder = folder_in(tmp_path)
    runner(scratch).run(CELLS[:2], folder)
    with pytest.raises(ConfigError, match="holds another experiment"):
        folder_in(tmp_path, SPEC.model_copy(update={"requests": 5}))
    first, second = (folder.cells / f"{cell.id}.parquet" for cell in CELLS[:2])
    first.write_bytes(second.read_bytes())
    with pytest.raises(StateError, match="of another cell; delete it"):
        runner(scratch).run(CELLS, folder)
    first.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(StateError, match="cannot be read"):
        runner(scratch).run(CELLS, folder)
