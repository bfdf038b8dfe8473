"""Cells that another run has under other names are taken over, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from toy_backend import ToyBackend, asked

from block.errors import ConfigError
from exp.experiment import equal_cells, inputs
from exp.experiment.backend import Kind, Surroundings
from exp.experiment.cell import Cell
from exp.experiment.equal_cells import EqualCells
from exp.experiment.run_folder import RunFolder
from exp.experiment.runner import Runner
from exp.experiment.sources import source_files
from exp.experiment.spec import EngineVariant, ExperimentSpec, PolicyVariant

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "config"

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
NOWHERE = Path("nowhere")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "asked"
    folder.mkdir()
    return folder


def opened(path: Path, spec: ExperimentSpec, backend: str = "toy") -> RunFolder:
    folder = RunFolder(path)
    folder.open(spec, backend)
    return folder


def run(
    spec: ExperimentSpec,
    folder: RunFolder,
    scratch: Path,
    equal: EqualCells | None = None,
    data: Path = NOWHERE,
) -> int:
    around = Surroundings(data, scratch=scratch)
    ran = Runner(ToyBackend, around, 1, Console(file=StringIO()), equal or EqualCells())
    return ran.run(spec.cells(), folder)


def named(spec: ExperimentSpec, policy: str, rate_per_s: float) -> Cell:
    return next(one for one in spec.cells() if (one.policy, one.rate_per_s) == (policy, rate_per_s))


def test_a_cell_that_differs_in_its_names_alone_is_taken_over(tmp_path: Path, scratch: Path) -> None:
    first = opened(tmp_path / "first", FIRST)
    run(FIRST, first, scratch)
    before = len(asked(scratch))
    second = opened(tmp_path / "second", SECOND)
    assert run(SECOND, second, scratch, EqualCells.of([first.path], second, TOY, NOWHERE)) == 3
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
    monkeypatch.setattr(equal_cells, "sources_digest", lambda: "another")
    assert run(SECOND, second, scratch, EqualCells.of([first.path], second, TOY, NOWHERE)) == 4


def test_what_is_taken_over_can_be_taken_over_again(tmp_path: Path, scratch: Path) -> None:
    first, second, third = (opened(tmp_path / name, FIRST) for name in "abc")
    run(FIRST, first, scratch)
    for before, after in ((first, second), (second, third)):
        assert run(FIRST, after, scratch, EqualCells.of([before.path], after, TOY, NOWHERE)) == 0


def lengths_in(folder: Path, tokens: int) -> Path:
    """A data folder with ShareGPT's lengths, which ``auto`` takes."""
    file = folder / "vidur_traces" / "sharegpt_val_10k_llama2.csv"
    file.parent.mkdir(parents=True)
    file.write_text("prompt_tokens,output_tokens\n" + f"{tokens},5\n" * 4)
    return folder


def test_cells_of_another_trace_are_run_anew(tmp_path: Path, scratch: Path) -> None:
    data, same = lengths_in(tmp_path / "data", 9), lengths_in(tmp_path / "same", 9)
    other = lengths_in(tmp_path / "other", 8)
    first = opened(tmp_path / "first", FIRST)
    run(FIRST, first, scratch, data=data)
    for place, anew in ((NOWHERE, 4), (other, 4), (same, 0)):
        again = opened(tmp_path / f"again-{place.name}", FIRST)
        assert run(FIRST, again, scratch, EqualCells.of([first.path], again, TOY, place), place) == anew


@pytest.mark.parametrize("changed", ["steps.yaml", "gpu.yaml"])
def test_cells_of_other_step_times_are_run_anew(tmp_path: Path, scratch: Path, changed: str) -> None:
    model = f"model: {CONFIG}/models/llama-2-7b/config.json"
    (tmp_path / "steps.yaml").write_text(f"kind: roofline\ngpu: gpu.yaml\n{model}\n")
    (tmp_path / "gpu.yaml").write_bytes((CONFIG / "gpus/a30.yaml").read_bytes())
    spec = FIRST.model_copy(update={"set": {"engine.latency": f"{tmp_path}/steps.yaml"}})
    first = opened(tmp_path / "run", spec)
    run(spec, first, scratch)
    inputs._content.cache_clear()  # another process would look anew
    again = opened(tmp_path / "again", spec)
    assert run(spec, again, scratch, EqualCells.of([first.path], again, TOY, NOWHERE)) == 0
    with (tmp_path / changed).open("a") as file:
        file.write("# other\n")
    inputs._content.cache_clear()
    anew = opened(tmp_path / "anew", spec)
    assert run(spec, anew, scratch, EqualCells.of([first.path], anew, TOY, NOWHERE)) == 4


@pytest.mark.parametrize(
    ("policy", "anew"), [("exp.cluster.rivals:WeightedLeastRequest", 0), ("toy_policy:Mine", 2)]
)
def test_cells_under_a_policy_from_elsewhere_are_run_anew(
    tmp_path: Path, scratch: Path, policy: str, anew: int
) -> None:
    spec = FIRST.model_copy(update={"policies": {"mine": PolicyVariant(set={"scheduler.policy": policy})}})
    first, again = opened(tmp_path / "first", spec), opened(tmp_path / "again", spec)
    run(spec, first, scratch)
    assert run(spec, again, scratch, EqualCells.of([first.path], again, TOY, NOWHERE)) == anew


def test_cells_that_had_other_settings_are_passed_over(tmp_path: Path, scratch: Path) -> None:
    """As the settings of an earlier version: their names were others."""
    first, again = opened(tmp_path / "first", FIRST), opened(tmp_path / "again", FIRST)
    run(FIRST, first, scratch)
    path = first.file(named(FIRST, "block", 2.0))
    table = pq.read_table(path)
    before = dict(table.schema.metadata)
    before[b"block.cell"] = before[b"block.cell"].replace(b'"probe_deadline_s"', b'"deadline_s"')
    pq.write_table(table.replace_schema_metadata(before), path)
    assert run(FIRST, again, scratch, EqualCells.of([first.path], again, TOY, NOWHERE)) == 1


def test_the_digest_is_of_all_code_that_simulates() -> None:
    """What a process has loaded once it has the back end; tables of other back ends and a protocol aside."""
    script = (
        "import sys, exp.experiment.simulated, global_scheduler.policies\n"
        "print(*(one.__file__ for one in list(sys.modules.values()) if getattr(one, '__file__', None)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours = {path for word in loaded.stdout.split() if ROOT in (path := Path(word)).parents}
    ours = {path for path in ours if ".venv" not in path.parts and path.name != "__init__.py"}
    aside = {ROOT / "exp/experiment/backend.py", ROOT / "exp/outcome.py"}
    assert len(ours) > 50
    assert ours - aside <= set(source_files())


def test_what_cannot_be_of_use_is_refused(tmp_path: Path) -> None:
    second = opened(tmp_path / "second", SECOND)
    with pytest.raises(ConfigError, match="no run there"):
        EqualCells.of([tmp_path / "nothing"], second, TOY, NOWHERE)
    other = opened(tmp_path / "other", FIRST, "emulated")
    with pytest.raises(ConfigError, match=r"another backend \(emulated, not toy\)"):
        EqualCells.of([other.path], second, TOY, NOWHERE)
    with pytest.raises(ConfigError, match="only simulated cells"):
        EqualCells.of([other.path], second, Kind("", "", parallel=False), NOWHERE)
