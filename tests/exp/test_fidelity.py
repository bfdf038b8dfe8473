"""``block-exp fidelity``, with the real judge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exp.cli import main
from exp.random_engine import random_workload
from exp.trace_slice import TraceSlices


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["fidelity", *arguments])
    return int(caught.value.code or 0)


@pytest.mark.filterwarnings("default")
def test_random_engines_match_vllm_step_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--workloads", "25", "--seed", "11", "--requests", "30", "--data", str(tmp_path)) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["workloads"] == 25
    assert summary["mismatched_steps"] == 0
    assert summary["steps"] > 3000
    # A judgement on engines in which nothing happens would be worth little.
    assert summary["preemptions"] > 20
    assert summary["hit_tokens"] > 1000
    assert summary["aborts"] > 10


@pytest.mark.filterwarnings("default")
def test_a_difference_is_shown_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import exp.judge

    class Smaller(exp.judge.VllmJudge):
        def __init__(self, limits: Any, *others: Any) -> None:
            super().__init__(replace(limits, total_blocks=limits.total_blocks - 1), *others)

    monkeypatch.setattr(exp.judge, "VllmJudge", Smaller)
    assert run("--workloads", "1", "--seed", "3", "--requests", "5", "--data", str(tmp_path)) == 1
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1])["mismatched_steps"] > 0
    assert "ours SimulatedStep" in output.err
    assert "vLLM SimulatedStep" in output.err


def test_the_same_seed_gives_the_same_workload() -> None:
    assert random_workload(5, 40) == random_workload(5, 40)
    assert random_workload(5, 40) != random_workload(6, 40)


def test_random_engines_cover_the_ranges() -> None:
    limits = [random_workload(seed, 10).limits for seed in range(600)]
    assert min(each.total_blocks for each in limits) < 80
    assert max(each.total_blocks for each in limits) > 6000
    assert min(each.max_num_seqs for each in limits) == 1
    assert max(each.max_num_seqs for each in limits) > 200
    assert min(each.max_num_batched_tokens for each in limits) < 80
    assert max(each.max_num_batched_tokens for each in limits) > 7000
    for switch in ("chunked_prefill", "prefix_caching", "async_scheduling", "reserve_full_prompt"):
        assert {getattr(each, switch) for each in limits} == {True, False}
    assert {each.policy for each in limits} == {"fcfs", "priority"}
    assert any(each.watermark_blocks for each in limits)
    assert any(each.long_prefill_token_threshold for each in limits)


def test_slices_of_mooncakes_trace_share_whole_blocks(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 100 * i, "input_length": 1500, "output_length": 5, "hash_ids": [0, 1 + i % 2, 9]}
        for i in range(50)
    ]
    folder = tmp_path / "mooncake_fast25"
    folder.mkdir()
    (folder / "conversation_trace.jsonl").write_text("\n".join(map(json.dumps, rows)))
    slices = TraceSlices(tmp_path)
    assert slices.names == ("mooncake",)
    workload = slices.draw("mooncake", 4, 10)
    assert len(workload.requests) == 10
    first, second, third = (request.block_hashes for request in workload.requests[:3])
    per_hash = 512 // workload.limits.block_size
    assert first == third
    assert first[:per_hash] == second[:per_hash]
    assert first[per_hash] != second[per_hash]
    assert len(first) == 3 * per_hash
