"""Cells that another run has under other names are taken over, and nothing else is."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from toy_backend import ToyBackend, asked

from block.errors import ConfigError
from exp.experiment import run_folder
from exp.experiment.backend import Kind, Surroundings
from exp.experiment.cell import Cell
from exp.experiment.equal_cells import EqualCells
from exp.experiment.run_folder import RunFolder
from exp.experiment.runner import Runner
from exp.experiment.spec import EngineVariant, ExperimentSpec, PolicyVariant

FIRST = ExperimentSpec(
    title="first",
    requests=4,
    policies={"random": PolicyVariant(), "block": PolicyVariant()},
    engines={"default": EngineVariant()},
    rates_per_s=(1.0, 2.0),
)
SECOND = FIRST.model_copy(
    update={
        "title": "second",
        "engines": {"batch-48": EngineVariant()},
        "policies": {
            "oracle": PolicyVariant(set={"scheduler.policy": "block"}),
            "guess": PolicyVariant(set={"scheduler.policy": "block"}, lengths="guess"),
        },
        "rates_per_s": (2.0, 3.0),
    }
)
TOY = Kind("toy_backend", "ToyBackend", parallel=True, deterministic=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "asked"
    folder.mkdir()
    return folder


def opened(path: Path, spec: ExperimentSpec, backend: str = "toy") -> RunFolder:
    folder = RunFolder(path)
    folder.open(spec, backend)
    return folder


def run(spec: ExperimentSpec, folder: RunFolder, scratch: Path, equal: EqualCells | None = None) -> int:
    around = Surroundings(Path("nowhere"), scratch=scratch)
    ran = Runner(ToyBackend, around, 1, Console(file=StringIO()), equal or EqualCells())
    return ran.run(spec.cells(), folder)


def named(spec: ExperimentSpec, policy: str, rate_per_s: float) -> Cell:
    return next(one for one in spec.cells() if (one.policy, one.rate_per_s) == (policy, rate_per_s))


def test_a_cell_that_differs_in_its_names_alone_is_taken_over(tmp_path: Path, scratch: Path) -> None:
    first = opened(tmp_path / "first", FIRST)
    run(FIRST, first, scratch)
    before = len(asked(scratch))
    second = opened(tmp_path / "second", SECOND)
    assert run(SECOND, second, scratch, EqualCells.of([first.path], second, TOY)) == 3
    assert len(asked(scratch)) == before + 3
    theirs, ours = named(FIRST, "block", 2.0), named(SECOND, "oracle", 2.0)
    assert second.load(ours).equals(first.load(theirs))
    assert second.wall_s(ours) == first.wall_s(theirs)
    assert second.has(ours)


def test_cells_of_other_code_are_run_anew(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = opened(tmp_path / "first", FIRST), opened(tmp_path / "second", SECOND)
    run(FIRST, first, scratch)
    monkeypatch.setattr(run_folder, "sources_digest", lambda: "another")
    assert run(SECOND, second, scratch, EqualCells.of([first.path], second, TOY)) == 4


def test_what_cannot_be_of_use_is_refused(tmp_path: Path) -> None:
    second = opened(tmp_path / "second", SECOND)
    with pytest.raises(ConfigError, match="no run there"):
        EqualCells.of([tmp_path / "nothing"], second, TOY)
    other = opened(tmp_path / "other", FIRST, "emulated")
    with pytest.raises(ConfigError, match=r"another backend \(emulated, not toy\)"):
        EqualCells.of([other.path], second, TOY)
    with pytest.raises(ConfigError, match="only simulated cells"):
        EqualCells.of([other.path], second, Kind("", "", parallel=False))
