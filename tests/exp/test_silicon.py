"""Users that ask again at once, and measured servers judged by kernel tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from operator_profiles import kernel_tables, write_csv

from block.errors import StateError
from block.latency.base import KernelLatency
from block.types import EngineLimits
from exp.cli import main
from exp.closed_loop import ClosedLoop, UserLoad
from exp.silicon_points import read_points

KERNEL = KernelLatency((1.0, 1024.0), (0.01, 0.01))
SLOW_PROMPTS = KernelLatency((1.0, 16.0, 1024.0), (0.01, 0.01, 0.2))
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
HEADER = (
    "id,backend,model_path,system,gemm_quant_mode,isl,osl,batch_size,tp_size,silicon_ttft_ms,silicon_tpot_ms"
)


def limits(seats: int, blocks: int = 4096) -> EngineLimits:
    return EngineLimits(16, blocks, seats, 1024, 4096)


def test_a_single_user_waits_for_nobody() -> None:
    loop = ClosedLoop.of(limits(1), KERNEL, UserLoad(1, 100, 50))
    assert loop.ttft_s == pytest.approx(0.01)
    assert loop.tpot_s == pytest.approx(0.01)


def test_more_users_than_seats_wait_for_a_whole_response() -> None:
    loop = ClosedLoop.of(limits(4), KERNEL, UserLoad(8, 100, 50, requests_per_user=100))
    assert loop.ttft_s == pytest.approx(0.5, rel=0.05)
    assert loop.tpot_s == pytest.approx(0.01)


def test_those_who_begin_together_are_counted_with_the_rest() -> None:
    """Eight prompts of a whole budget each: the first waits a step, the last eight."""
    alone = ClosedLoop.of(limits(8), KERNEL, UserLoad(8, 1024, 1, requests_per_user=1))
    assert alone.ttft_s == pytest.approx(0.01 * np.mean([1, 2, 3, 4, 5, 6, 7, 8]))


def test_lengths_that_differ_keep_users_from_asking_all_at_once() -> None:
    same, unlike = (
        ClosedLoop.of(limits(8), SLOW_PROMPTS, UserLoad(8, 128, 200, shortest=shortest))
        for shortest in (1.0, 0.8)
    )
    assert unlike.ttft_s < same.ttft_s / 2


def test_lengths_lie_between_their_bounds_and_are_drawn_alike() -> None:
    load = UserLoad(50, 1000, 200, shortest=0.8)
    requests = load.requests()
    assert len(requests) == 500
    assert (min(r.prompt_tokens for r in requests), max(r.prompt_tokens for r in requests)) == (800, 1000)
    assert (min(r.output_tokens for r in requests), max(r.output_tokens for r in requests)) == (160, 200)
    assert requests == load.requests()


def test_prompts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StateError, match="give it more blocks"):
        ClosedLoop.of(limits(4, blocks=4), KERNEL, UserLoad(4, 100, 50))


@pytest.mark.parametrize(
    ("name", "campaign", "cache_precision", "budget"),
    [
        ("2026_04_06_llama_h100_c8_tp1", "InferenceMAX", "fp8", 8192),
        ("llama_h100_1024x1024_c8_cfg733", "InferenceMAX", "fp8", 8192),
        ("llama_h100_agg_512x64_c4_tp1", "aiconfigurator", "bfloat16", 4 + 512 + 1500),
    ],
)
def test_points_are_measured_as_their_campaign_did(
    tmp_path: Path, name: str, campaign: str, cache_precision: str, budget: int
) -> None:
    row = (name, "vllm", LLAMA, "h100_sxm", "", 512, 64, 4, 1, 30.0, 8.0)
    write_csv(tmp_path / "points.csv", HEADER, [row])
    ((point,), left_out) = read_points(tmp_path / "points.csv")
    assert not left_out
    found = (point.campaign.name, point.campaign.cache_precision, point.campaign.batched_tokens(point.load))
    assert found == (campaign, cache_precision, budget)


def test_measured_servers_are_judged_and_the_rest_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "profiles" / "aiconfigurator"
    kernel_tables(folder)
    rows = [
        ("a", "vllm", LLAMA, "h100_sxm", "", 512, 64, 4, 1, 30.0, 8.0),
        ("b", "sglang", LLAMA, "h100_sxm", "fp8", 512, 64, 8, 2, 30.0, 8.0),
        ("c", "vllm", LLAMA, "b200_sxm", "", 512, 64, 4, 1, 30.0, 8.0),
        ("d", "vllm", "openai/gpt-oss-120b", "h100_sxm", "", 512, 64, 4, 1, 30.0, 8.0),
        ("e", "vllm", LLAMA, "h100_sxm", "int4", 512, 64, 4, 1, 30.0, 8.0),
        ("f", "vllm", LLAMA, "h100_sxm", "", 512, 64, 4, 1, "", 8.0),
        ("f0", "vllm", LLAMA, "h100_sxm", "", 512, 64, 4, 0, 30.0, 8.0),
        ("f_c_tp1", "vllm", LLAMA, "h100_sxm", "", 512, 64, 4, 1, 30.0, 8.0),
        ("g", "vllm", LLAMA, "h100_sxm", "", 512, 64, 4, 4, 30.0, 8.0),
    ]
    write_csv(folder / "silicon_sample_agg.csv", HEADER, rows)
    with pytest.raises(SystemExit) as caught:
        main(["latency", "silicon", "--data", str(tmp_path), "--plot", str(tmp_path / "s.png")])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    summary = json.loads(output.splitlines()[-1])
    assert (summary["points"], summary["vllm_points"], summary["left_out"]) == (2, 1, 7)
    for why in (
        "b200_sxm: no kernel tables of this GPU",
        "openai/gpt-oss-120b: no dense model that there are dimensions of",
        "int4: no kernel tables of this precision",
        "number of users not said",
        "incomplete",
        "num_gpus = 4: not measured; has 2",
    ):
        assert why in output
    assert (tmp_path / "s.png").stat().st_size > 1000
