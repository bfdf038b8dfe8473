"""Users that ask again at once, and measured servers judged by kernel tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from operator_profiles import kernel_tables, write_csv

from block.errors import StateError
from block.latency.base import KernelLatency
from block.types import EngineLimits
from exp.cli import main
from exp.closed_loop import ClosedLoop

KERNEL = KernelLatency((1.0, 1024.0), (0.01, 0.01))


def limits(seats: int, blocks: int = 4096) -> EngineLimits:
    return EngineLimits(16, blocks, seats, 1024, 4096)


def test_a_single_user_waits_for_nobody() -> None:
    loop = ClosedLoop.of(limits(1), KERNEL, 1, (100, 50))
    assert loop.ttft_s == pytest.approx(0.01)
    assert loop.tpot_s == pytest.approx(0.01)


def test_more_users_than_seats_wait_for_a_whole_response() -> None:
    loop = ClosedLoop.of(limits(4), KERNEL, 8, (100, 50))
    assert loop.ttft_s == pytest.approx(0.5, rel=0.05)
    assert loop.tpot_s == pytest.approx(0.01)


def test_prompts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StateError, match="give it more blocks"):
        ClosedLoop.of(limits(4, blocks=4), KERNEL, 4, (100, 50))


def test_measured_servers_are_judged_and_the_rest_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "profiles" / "aiconfigurator"
    kernel_tables(folder)
    header = (
        "backend,model_path,system,gemm_quant_mode,isl,osl,batch_size,tp_size,silicon_ttft_ms,silicon_tpot_ms"
    )
    llama = "meta-llama/Llama-3.1-8B-Instruct"
    rows = [
        ("vllm", llama, "h100_sxm", "", 512, 64, 4, 1, 30.0, 8.0),
        ("sglang", llama, "h100_sxm", "fp8", 512, 64, 8, 2, 30.0, 8.0),
        ("vllm", llama, "b200_sxm", "", 512, 64, 4, 1, 30.0, 8.0),
        ("vllm", llama, "h100_sxm", "", 512, 64, 4, 1, "", 8.0),
    ]
    write_csv(folder / "silicon_sample_agg.csv", header, rows)
    with pytest.raises(SystemExit) as caught:
        main(["latency", "silicon", "--data", str(tmp_path), "--plot", str(tmp_path / "s.png")])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    summary = json.loads(output.splitlines()[-1])
    assert (summary["points"], summary["vllm_points"]) == (2, 1)
    assert "left out: 1: no kernel tables" in output
    assert "left out: 1: incomplete" in output
    assert (tmp_path / "s.png").stat().st_size > 1000
