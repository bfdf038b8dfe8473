"""``block-exp bench what-if``, small, and the states it asks about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from block.simulation.resume import check_state
from exp.bench_state import BenchState
from exp.cli import main
from exp.timing import Timing


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    return int(caught.value.code or 0)


def test_the_table_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("what-if", "--calls", "40") == 0
    output = capsys.readouterr().out
    summary = json.loads(output.splitlines()[-1])
    assert (summary["running"], summary["waiting"]) == (50, 50)
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert summary["steps_per_s"] > summary["stepwise_steps_per_s"] > 10_000
    assert 23 < summary["decodes_per_batch"] < 29
    assert summary["predictor_rss_mb"] > 10
    assert "name a checkout with --vidur DIR" in output


@pytest.mark.parametrize("content", [None, "import nothing_of_that_name"])
def test_a_folder_that_is_no_working_checkout_is_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content:
        (tmp_path / "vidur" / "scheduler").mkdir(parents=True)
        (tmp_path / "vidur" / "__init__.py").write_text(content)
    assert run("what-if", "--calls", "20", "--vidur", str(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"block-exp: {tmp_path}: ")


def test_bench_states_are_possible_and_as_full_as_asked() -> None:
    state = BenchState(running=50, waiting=20, tokens_left=300, spread=0.5).build()
    check_state(state)
    assert (len(state.running), len(state.waiting)) == (50, 20)
    left = [request.max_tokens - request.generated_tokens for request in state.running]
    assert 150 <= min(left) < max(left) <= 450


def test_timing_tells_work_from_waiting() -> None:
    import time

    timing = Timing.of(lambda: time.sleep(0.005), 20)
    assert timing.wall_p50_ms >= 5
    assert timing.p50_ms < timing.wall_p50_ms / 2
    assert timing.p50_ms <= timing.p99_ms
