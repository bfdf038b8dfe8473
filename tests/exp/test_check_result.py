"""The last line of an emulation check: its keys, their signs, and which cell they speak of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from exp.check_plan import Cell, full, quick
from exp.check_report import result_table, write_report
from exp.check_result import CellResult, summary
from exp.serving_metrics import ERROR_KEYS, ServingMetrics, Spread

KEYS = {"ttft_mean_err", "tpot_mean_err", "itl_mean_err", "e2e_mean_err", "throughput_err"}


def metrics(factor: float = 1.0, throughput: float = 100.0) -> ServingMetrics:
    spread = Spread(0.1 * factor, 0.1 * factor, 0.2 * factor, 0.3 * factor)
    return ServingMetrics(spread, spread, spread, spread, throughput, 9, 0, 2, 0.3, 0.6)


def result(seed: int, real: tuple[float, ...], emulated: tuple[float, ...]) -> CellResult:
    return CellResult(
        "deep-llama",
        Cell("sharegpt", 0.1 * seed, 0.25 if seed % 2 else 1.0, seed),
        tuple(map(metrics, real)),
        tuple(map(metrics, emulated)),
        (metrics(1.0), metrics(1.02)),
        (metrics(1.3),),
        metrics(1.0302),
        emulated_s=20.0,
        virtual_s=0.1 * seed,
    )


RESULTS = [result(1, (1.0, 1.02), (1.03, 1.05)), result(2, (1.0, 0.96), (0.90, 0.90))]


def test_the_summary_has_the_keys_asked_for_and_the_worst_cells_signed_errors() -> None:
    found = summary(RESULTS)
    assert {*KEYS, "floor", "speedup_virtual"} <= set(found)
    assert set(ERROR_KEYS) == KEYS == set(found["floor"]) == set(found["virtual"])
    assert found["e2e_mean_err"] == pytest.approx(0.90 / 0.98 - 1, abs=1e-4)
    assert found["floor"]["ttft_mean_err"] == pytest.approx(-0.04)
    # The second cell's 8.2 % beyond its floor of 4 %; in throughput all are equal.
    assert found["beyond_floor"]["ttft_mean_err"] == pytest.approx(0.08163 - 0.04, abs=1e-4)
    assert found["beyond_floor"]["throughput_err"] == 0.0
    together = {kind: figures["e2e_mean_err"] for kind, figures in found["all_cells"].items()}
    first, second = 1.04 / 1.01 - 1, 0.90 / 0.98 - 1
    assert together["mean"] == pytest.approx((first + second) / 2, abs=1e-4)
    assert together["rms"] == pytest.approx(math.sqrt((first**2 + second**2) / 2), abs=1e-4)
    assert together["floor_rms"] == pytest.approx(math.sqrt((0.02**2 + 0.04**2) / 2), abs=1e-4)
    # Virtual time is judged without the samples' chance.
    assert found["virtual"]["e2e_mean_err"] == pytest.approx(0.02)
    assert found["speedup_virtual"] == 100.0
    assert (found["cells"], found["goals_held"]) == (2, 1)
    assert found["failed"] == 0
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("kind", ["real", "emulated", "steady"])
def test_failed_requests_show(kind: str) -> None:
    broken = replace(RESULTS[0], **{kind: (replace(metrics(), failed=4), metrics())})
    assert summary([broken])["failed"] == 4


def test_the_report_is_a_page_with_its_figures(tmp_path: Path) -> None:
    console = Console(width=200, record=True, quiet=True)
    console.print(result_table(RESULTS))
    write_report(RESULTS, tmp_path, summary(RESULTS), "block-exp emulation-check --seed 7")
    page = (tmp_path / "emulation-validation.md").read_text()
    assert "| deep-llama | sharegpt 20% Poisson |" in page
    assert json.dumps(summary(RESULTS)) in page
    assert "| root mean square of the errors | 6.1% |" in page
    assert "`block-exp emulation-check --seed 7`" in page
    assert "CPU backend" in page
    for name in ("emulation-errors", "emulation-latencies"):
        assert f"figures/{name}.svg" in page
        assert (tmp_path / "figures" / f"{name}.svg").read_text().startswith("<?xml")
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000


def test_the_page_names_the_device_that_was_the_truth(tmp_path: Path) -> None:
    write_report(RESULTS, tmp_path, summary(RESULTS), "block-exp emulation-check", "config/latency/gpu.yaml")
    page = (tmp_path / "emulation-validation.md").read_text()
    assert "`config/latency/gpu.yaml`" in page
    assert "CPU backend" not in page


def test_real_runs_are_held_to_the_same_goals(tmp_path: Path) -> None:
    alike = result(1, (1.0, 1.02, 1.0, 1.02), (1.01,))
    drifting = result(2, (1.0, 1.0, 1.1, 1.1), (1.05,))
    assert (alike.holds, alike.real_holds) == (True, True)
    assert (drifting.holds, drifting.real_holds) == (True, False)
    found = summary([alike, drifting])
    assert (found["goals_held"], found["goals_held_by_real_runs"]) == (2, 1)
    write_report([alike, drifting], tmp_path, found, "block-exp emulation-check")
    page = (tmp_path / "emulation-validation.md").read_text()
    assert "holds at 2 of 2 loads" in page
    assert "it would at\n1." in page


def test_virtual_time_is_shown_beside_how_far_emulation_repeats_itself(tmp_path: Path) -> None:
    write_report(RESULTS, tmp_path, summary(RESULTS), "block-exp emulation-check")
    row = "| deep-llama | sharegpt 20% Poisson | +2.0% (+2.0%) |"
    assert row in (tmp_path / "emulation-validation.md").read_text()
    once = [replace(each, steady=each.steady[:1]) for each in RESULTS]
    write_report(once, tmp_path, summary(once), "block-exp emulation-check")
    assert (
        "| deep-llama | sharegpt 20% Poisson | +3.0% |" in (tmp_path / "emulation-validation.md").read_text()
    )


def test_what_is_judged_was_not_recorded() -> None:
    for plan in (quick(("m",), seed=0), full(("m", "n"), seed=0)):
        seeds = [cell.seed for cell in plan.cells]
        assert len(set(seeds)) == len(seeds)
        assert min(seeds) >= 1000
        assert {"sharegpt", "long-prompts"} == plan.mixes
        assert max(cell.share for cell in plan.cells) > 1.0
    shares = {cell.share for cell in full(("m",), 0).cells if cell.mix == "sharegpt"}
    assert len(shares) == 5
