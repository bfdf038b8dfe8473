"""The page of results: every number from the cells, every paper's number and explanation from the spec."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from toy_backend import ToyBackend
from typer.testing import CliRunner

from block.errors import ConfigError
from exp.experiment.backend import Surroundings
from exp.experiment.capacity_curve import gains
from exp.experiment.claims import ExpectedOrder, Goal, PublishedFigure
from exp.experiment.report import Report
from exp.experiment.results_page import Run, write_page
from exp.experiment.run_folder import RunFolder
from exp.experiment.runner import Runner
from exp.experiment.spec import ExperimentSpec, PolicyVariant
from exp.experiment.summary import Interval, Row, ratios
from exp.results import app

SPEC = ExperimentSpec(
    title="A toy",
    requests=4,
    policies={"block": PolicyVariant(), "random": PolicyVariant()},
    rates_per_s=(2.0, 4.0, 6.0, 8.0),
    seeds=(0, 1, 2),
    slo_ttft_s=(0.7,),
    published_qps={"default/sharegpt/0.7s": {"block": "4-6"}},
    published=(
        PublishedFigure(
            what="P99 TTFT, ms",
            measure="ttft_p99_s",
            policy="block",
            rate_per_s=2.0,
            scale=1e3,
            value="100",
            why="toys",
        ),
    ),
    published_qps_why={"default/sharegpt/0.7s": "luck"},
    expected=(ExpectedOrder(slo_ttft_s=0.7, pairs=(("random", "<=", "block"),)),),
    goals=(Goal(policies=("block",), over=("random",), slo_ttft_s=0.7, capacity_gain=0.25),),
    baselines=("random",),
    notes="Toys differ from life.",
    figures=("heat_map",),
)


def row(policy: str, rate_per_s: float, seed: int, p99_s: float) -> Row:
    return Row(policy, "e", "w", rate_per_s, seed, {"ttft_p99_s": p99_s})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy")
    opened = RunFolder(path)
    opened.open(SPEC, "toy")
    around = Surroundings(Path("nowhere"), scratch=path)
    cells = [cell for cell in SPEC.cells() if (cell.policy, cell.seed) != ("random", 2)]
    Runner(ToyBackend, around, 1, Console(quiet=True)).run(cells, opened)
    return path


@pytest.mark.parametrize(("figures", "told"), [(("heat_map",), False), (("capacity",), True)])
def test_capacities_are_told_of_specs_that_look_for_them(
    figures: tuple[str, ...], told: bool, folder: Path, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"published_qps": {}, "published_qps_why": {}, "figures": figures})
    opened = RunFolder(folder)
    page = tmp_path / "results.md"
    write_page([Run("toy", opened, Report.make(opened, spec))], page, "block-exp results toy")
    assert ("Capacity, requests/s: the rate" in page.read_text()) == told


def test_the_page_tells_runs_capacities_papers_and_what_is_missing(folder: Path, tmp_path: Path) -> None:
    opened = RunFolder(folder)
    page = tmp_path / "results.md"
    write_page([Run("toy", opened, Report.make(opened, SPEC))], page, "block-exp results toy")
    text = page.read_text()
    assert "## A toy" in text
    assert "Toys differ from life." in text
    assert "20 cells of 4 requests, 3 seeds" in text
    assert "**4 cells are missing.**" in text
    # TTFT is 0.1 * 2 ** (rate / 2) s and a tenth longer per seed: 5.35 requests/s, within the paper's range.
    assert "| block | 5.3 ± 0.7 (paper 4-6; within) |" in text
    assert "## Check against the paper" in text
    row = "| toy | P99 TTFT, ms | block | default, sharegpt, 2/s | 220.00 ± 49.68 | 100 | +120 % | toys |"
    assert row in text
    setting = "capacity within 0.7 s, requests/s | block | default, sharegpt"
    assert f"| toy | {setting} | 5.3 ± 0.7 | 4-6 | within | luck |" in text
    assert "| toy | random <= block | default, sharegpt, 0.7 s | +0.0 ± 0.0 % | yes |  |" in text
    goal = "capacity within 0.7 s +25 % against random"
    assert f"| toy | {goal} | block | default, sharegpt | +0.0 ± 0.0 % | missed |" in text
    assert "Against **random**" in text
    assert "+0.0 ± 0.0 % | +0 % (+0 to +0) |" in text
    assert "![A toy](results/toy-heat-map-default.png)" in text
    assert (tmp_path / "results/toy-heat-map-default.svg").is_file()


def test_the_command_names_the_page_and_what_is_missing(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "results.md"
    done = CliRunner().invoke(app, [str(folder), "--page", str(page)])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output.splitlines()[-1])
    assert (told["page"], told["runs"], told["missing"], told["figures"]) == (str(page), 1, 4, 2)
    assert set(told["capacity_qps"]) == {"block", "random"}
    assert str(page) in done.output.splitlines()[-2]
    assert page.is_file()


def test_sections_of_other_runs_are_kept_and_the_same_runs_replaced(folder: Path, tmp_path: Path) -> None:
    page, opened = tmp_path / "results.md", RunFolder(folder)
    runs = [Run(name, opened, Report.make(opened, SPEC)) for name in ("one", "two")]
    write_page(runs, page, "block-exp results")
    first = page.read_text()
    write_page(runs[:1], page, "block-exp results", keep=True)
    assert page.read_text() == first
    assert first.count("| two | random <= block |") == 1
    changed = SPEC.model_copy(update={"title": "Another toy"})
    write_page([Run("one", opened, Report.make(opened, changed))], page, "block-exp results", keep=True)
    assert [line for line in page.read_text().splitlines() if line.startswith("## ")] == [
        "## Check against the paper",
        "## The paper's order of policies",
        "## Goals",
        "## Another toy",
        "## A toy",
    ]
    page.write_text(first + "\n## By hand\n\nNo run.\n")
    with pytest.raises(ConfigError, match="section 'By hand' names no run"):
        write_page(runs, page, "block-exp results", keep=True)


def test_figures_are_tabulated_over_the_rates(folder: Path, tmp_path: Path) -> None:
    opened, page = RunFolder(folder), tmp_path / "results.md"
    spec = SPEC.model_copy(update={"tables": ("ttft_p99_s",)})
    write_page([Run("toy", opened, Report.make(opened, spec))], page, "block-exp results")
    text = page.read_text()
    assert "`ttft_p99_s` by requests/s (default, sharegpt):" in text
    assert "| policy | 2 | 4 | 6 | 8 |" in text
    assert "| block | 0.220 ± 0.050 |" in text


def test_gains_are_taken_seed_by_seed() -> None:
    # Seeds differ by far more than policies do: each time "mine" carries a tenth more.
    rows = []
    for seed, capacity in ((0, 10.0), (1, 20.0)):
        for policy, at in (("theirs", capacity), ("mine", 1.1 * capacity)):
            rows += [row(policy, at / 2, seed, 1.0), row(policy, at * 2, seed, 4.0)]
    found = gains(rows, "ttft_p99_s", 2.0, "theirs")["mine"]
    assert found.rate_per_s.mean == pytest.approx(0.1)
    assert found.rate_per_s.half == pytest.approx(0.0, abs=1e-9)
    assert found.bound == ""


def test_a_gain_beyond_the_rates_says_on_which_side_it_lies() -> None:
    ended = [row("mine", 1.0, 0, 1.0), row("mine", 2.0, 0, 1.5)]
    crossed = [row("theirs", 1.0, 0, 1.0), row("theirs", 2.0, 0, 4.0)]
    assert gains([*ended, *crossed], "ttft_p99_s", 2.0, "theirs")["mine"].bound == ">="
    assert gains([*ended, *crossed], "ttft_p99_s", 2.0, "mine")["theirs"].bound == "<="


def test_ratios_are_of_equal_requests() -> None:
    rows = [row("theirs", 1.0, 0, 1.0), row("mine", 1.0, 0, 0.5), row("theirs", 1.0, 1, 9.0)]
    rows.append(row("mine", 1.0, 1, 4.5))
    found = ratios(rows, "ttft_p99_s", "theirs")["mine"][1.0]
    assert found == Interval(pytest.approx(math.log(0.5)), pytest.approx(0.0, abs=1e-9))
