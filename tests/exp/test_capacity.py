"""``block-exp capacity`` on fleets whose answer can be told beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from block.errors import ConfigError
from exp.capacity import app
from exp.experiment.planned_fleet import PlannedFleet

SMALL = ("--workload", "generated", "--requests", 120, "--seeds", 1, "--workers", 1, "--data", "nowhere")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_fleet_carries_more_within_a_milder_slo() -> None:
    rates = []
    for slo in (0.5, 4.0):
        done = call(*SMALL, "--instances", 2, "--policy", "least_request", "--slo", slo, "--tolerance", 0.1)
        assert done.exit_code == 0, done.output
        rates.append(json.loads(done.stdout.splitlines()[-1])["policies"]["least_request"]["capacity_qps"])
    assert 2.0 < rates[0] < rates[1]


def test_a_faster_gpu_needs_fewer_instances() -> None:
    counts = []
    for gpu in ("a30", "h100-sxm"):
        done = call(*SMALL, "--rate", 12, "--policy", "least_request", "--gpu", gpu, "--slo", 1)
        assert done.exit_code == 0, done.output
        counts.append(json.loads(done.stdout.splitlines()[-1])["policies"]["least_request"]["instances"])
    assert 1 <= counts[1] < counts[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu", "a31"), "--gpu .*a31.yaml: unknown; known here: .*a30"),
        (("--model", "llama-9"), "--model .*: unknown; known here: .*llama-2-7b"),
        (("--measure", "speed"), "--measure speed: cannot be limited; known here: .*ttft_p99_s"),
        (("--measure", "requests_per_s"), "--measure requests_per_s: cannot be limited"),
        (("--slo", "inf"), "--slo inf: must be a number"),
    ],
)
def test_what_is_not_known_is_told(arguments: tuple[str, ...], said: str) -> None:
    error = call(*SMALL, *arguments).exception
    assert isinstance(error, ConfigError)
    assert pytest.raises(ConfigError, match=said).matches(error)


def test_a_trace_of_ones_own_needs_no_more_than_its_file(tmp_path: Path) -> None:
    trace = tmp_path / "MY.csv"
    lines = [f"{50 + 7 * index % 400},{20 + index % 60},{0.2 * index}" for index in range(60)]
    trace.write_text("\n".join(["prompt_tokens,output_tokens,arrival_s", *lines]))
    asked = (
        "--trace",
        trace,
        "--gpu",
        "a100",
        "--model",
        "llama-2-7b",
        "--slo",
        2,
        "--measure",
        "ttft_p95_s",
    )
    done = call(*asked, "--workers", 1, "--policy", "least_request", "--policy", "random")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["gpu"], told["requests"], told["rate_per_s"]) == ("a100-80-sxm", 60, 5.0)
    assert told["best"] == ["least_request", "random"]
    assert "all seeds have the same ones" in done.stderr
    assert "are a load of 12 s" in done.stderr


def test_a_planned_fleet_has_the_room_that_is_published(tmp_path: Any) -> None:
    cluster = PlannedFleet("a30", "llama-2-7b").cluster("block", 1, tmp_path)
    # 1,052 blocks are published for this GPU and model.
    assert cluster.engine.num_gpu_blocks == pytest.approx(1052, rel=0.1)
    with pytest.raises(ConfigError, match=r"--max-model-len 20000: .* lower it"):
        PlannedFleet("a30", "llama-2-7b", max_model_len=20_000).cluster("block", 1, tmp_path)
