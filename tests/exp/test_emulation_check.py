"""A miniature emulation check from a model's making to the last line, with real and emulated servers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from block.errors import PackError, StateError
from exp import emulation_check
from exp.check_plan import Cell, CheckPlan
from exp.check_result import CellResult, summary
from exp.check_run import ModelCheck
from exp.serving_metrics import ERROR_KEYS
from exp.time_left import TimeLeft
from exp.trial_engine import TrialEngine

PLAN = CheckPlan(
    ("tiny-llama",),
    record_s=8.0,
    cell_s=5.0,
    cells=(Cell("sharegpt", 0.5, 0.25, 1000), Cell("long-prompts", 0.4, 1.0, 1001)),
)


async def check(folder: Path) -> list[CellResult]:
    return await emulation_check.checked(PLAN, folder, Path("nowhere"), Console(quiet=True))


def model_check(plan: CheckPlan, folder: Path, device: Path | None = None) -> ModelCheck:
    progress = TimeLeft(Console(quiet=True), 0.0)
    return ModelCheck(plan, TrialEngine(folder / "tiny-llama"), folder, Path("nowhere"), progress, device)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"cell_s": 9.0}, "cell_s 5.0, not 9.0"), ({"seed": 3}, "seed 0, not 3"), ({"cells": ()}, "cells")],
)
async def test_the_logs_of_another_check_are_not_taken_for_its_own(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    begun = model_check(PLAN, tmp_path)
    begun._begin()
    begun.pack_path.write_bytes(b"")
    with pytest.raises(StateError, match=f"holds another check: .*{named}"):
        await model_check(replace(PLAN, **changes), tmp_path).run()
    (tmp_path / "table.yaml").write_text("kind: table")
    with pytest.raises(StateError, match="holds another check: device"):
        await model_check(PLAN, tmp_path, tmp_path / "table.yaml").run()
    plan = replace(PLAN, emulated_runs=0, steady_runs=0)
    with pytest.raises(PackError, match="is empty"):  # its own, which goes on as far as it gets
        await model_check(plan, tmp_path).run()


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_check_from_end_to_end_and_again_from_its_folder(tmp_path: Path) -> None:
    results = await check(tmp_path)
    found = summary(results)
    assert found["cells"] == 2
    assert found["failed"] == 0
    for errors in (found, found["floor"], found["virtual"]):
        assert all(math.isfinite(errors[key]) for key in ERROR_KEYS)
    # Wide, as other work may share the machine: a wrong unit or a shifted step is far outside.
    assert abs(found["e2e_mean_err"]) < 0.5
    assert abs(found["virtual"]["e2e_mean_err"]) < 0.5
    assert found["speedup_virtual"] > 10
    for result in results:
        assert all(metrics.kv_use_max > 0 for metrics in (*result.real, *result.emulated, *result.virtual))
    # All is in the folder, so nothing is started again and the same figures come out.
    again = summary(await check(tmp_path))
    assert {key: again[key] for key in (*ERROR_KEYS, "floor")} == {
        key: found[key] for key in (*ERROR_KEYS, "floor")
    }
