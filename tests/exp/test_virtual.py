"""``block-exp virtual``: what a pack's engine would have served, by the engine that it tells of."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import vllm.logger
from packs import HEADER

from block.latency.pack import save_pack
from block.latency.pack_builder import pack_of_steps
from block.types import BatchShape
from exp.cli import main
from exp.host_overheads import HostOverheads
from exp.run_log import RunLog
from exp.virtual_engine import _only_errors_logged

STEP_S = 0.02
LOAD = ("--requests", "30", "--rate", "2", "--data", "nowhere")


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Every step takes the same."""
    shapes = [BatchShape(n % 2 * 32, n % 16 + 1, 40 * n, 0, n % 16 + 1) for n in range(200)]
    save_pack(tmp_path / "even.npz", pack_of_steps(HEADER, [(shape, STEP_S) for shape in shapes]))
    return tmp_path / "even.npz"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Status, and the last line of what was printed; of the error stream if there is none."""
    with pytest.raises(SystemExit) as caught:
        main(["virtual", *map(str, arguments)])
    said = capsys.readouterr()
    return int(caught.value.code or 0), (said.out or said.err).strip().splitlines()[-1]


def result(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, line = run(capsys, *arguments, *LOAD)
    assert code == 0, line
    found: dict[str, Any] = json.loads(line)
    return found


def test_steps_take_what_the_pack_says(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, pack, "--steady", "--out", pack.with_name("run.jsonl"))
    assert (found["completed"], found["failed"], found["host"]) == (30, 0, None)
    assert found["median_itl_ms"] == pytest.approx(1e3 * STEP_S, rel=0.01)
    assert found["mean_ttft_ms"] >= 1e3 * STEP_S
    assert found["p99_e2el_ms"] >= found["median_e2el_ms"] > 0
    assert 0 < found["uncovered_steps"] <= found["steps"]
    assert found["duration"] / found["wall_s"] == pytest.approx(found["speedup"])
    log = RunLog.load(pack.with_name("run.jsonl"))
    assert sum(len(request.token_s) for request in log.requests) / found["duration"] == pytest.approx(
        found["output_throughput"], rel=0.05
    )


def test_the_hosts_share_beside_the_pack_counts(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = result(capsys, pack, "--steady")
    HostOverheads(way_in_s=0.1).save(HostOverheads.beside(pack))
    late = result(capsys, pack, "--steady")
    assert late["host"] == "even.host.json"
    assert late["median_ttft_ms"] - bare["median_ttft_ms"] == pytest.approx(100, abs=21)


def test_what_the_pack_does_not_tell_is_asked_for(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    untold = replace(HEADER, limits=replace(HEADER.limits, total_blocks=0, max_model_len=0, block_size=0))
    steps = [(BatchShape(0, n % 16 + 1, 40 * n, 0, n % 16 + 1), STEP_S) for n in range(200)]
    save_pack(pack, pack_of_steps(untold, steps))
    assert run(capsys, pack)[1].endswith("does not tell total_blocks; give --num-gpu-blocks")
    assert run(capsys, pack, "--num-gpu-blocks", 99)[1].endswith("max_model_len; give --max-model-len")
    found = result(capsys, pack, "--num-gpu-blocks", 99, "--max-model-len", 4096)
    assert found["completed"] == 30  # none of them longer than the 98 blocks hold
    code, line = run(capsys, "nowhere.npz")
    assert (code, "nowhere.npz: cannot be read" in line) == (1, True)


def test_a_configuration_is_not_told_even_if_loggers_are_set_up_meanwhile(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("vllm.virtual")
    with _only_errors_logged():
        vllm.logger._configure_vllm_root_logger()
        logger.warning("a configuration")
        logger.error("a fault")
    logger.warning("all else")
    said = capfd.readouterr()
    assert "a configuration" not in said.out + said.err
    assert all(text in said.out + said.err for text in ("a fault", "all else"))
