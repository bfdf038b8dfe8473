"""``block-exp latency`` and ``block-exp vidur`` on tiny profiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from operator_profiles import kernel_tables, layer_profile, vidur_profile

from block.latency.load import load_latency
from block.types import BatchShape
from exp.cli import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    layer_profile(tmp_path / "profiles" / "llmservingsim" / "RTXPRO6000" / "Llama-3.1-8B")
    vidur_profile(tmp_path / "profiles" / "vidur")
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_show_says_what_is_measured_and_writes_what_predictors_read(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = data / "made.yaml", data / "made.png"
    arguments = ("--data", str(data), "--out", str(out), "--plot", str(plot), "--max-num-seqs", "64")
    assert run("latency", "show", "a30", "llama-2-7b", *arguments) == 0
    output = capsys.readouterr().out
    assert "measured" in output
    assert "assumed" in output
    summary = json.loads(output.splitlines()[-1])
    assert summary["model"] == "a30-llama-2-7b-vidur"
    assert load_latency(out).seconds(BatchShape.of([(1, 100)] * 8)) > 0
    assert plot.stat().st_size > 1000


def test_compare_judges_each_operator_by_each_estimator(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("latency", "compare", "rtx-pro-6000", "llama-3.1-8b", "--data", str(data)) == 0
    errors = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(errors["attention"]) == {"grid", "rising", "forest"}
    assert errors["qkv_proj"]["grid"] < 0.01


def test_compare_judges_kernel_tables_as_well(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernel_tables(data / "profiles" / "aiconfigurator")
    arguments = ("h100-sxm", "llama-3.1-8b", "--data", str(data), "--tp", "2")
    assert run("latency", "compare", *arguments) == 0
    errors = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"qkv_proj", "down_proj", "all_reduce", "prefill", "decode"} <= set(errors)


def test_an_unknown_gpu_is_one_line_that_names_what_there_is(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("latency", "show", "tpu", "llama-2-7b", "--data", str(data)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "llmservingsim has no GPU tpu; has rtx-pro-6000" in line


def test_an_unknown_model_is_one_line_that_names_what_there_is(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("latency", "show", "a30", "gpt-9", "--data", str(data)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "model 'gpt-9': unknown; known are deep-llama, llama-2-70b" in line


def test_without_vidur_its_comparison_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("vidur", str(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no Vidur checkout" in line
