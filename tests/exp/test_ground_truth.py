"""``block-exp ground-truth`` on a run made here, whose truth is known, and on a recorded one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from operator_profiles import layer_profile

from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.types import EngineLimits
from exp.cli import main
from exp.ground_truth import truth_of
from exp.recorded_run import RecordedRun
from vidur_adapter.llmservingsim import LayerProfile
from vidur_adapter.model import Constants
from vidur_adapter.replay import Replay

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
LIMITS = EngineLimits(16, 8192, 16, 512, 4096, async_scheduling=True)
KEYS = [
    "tpot_mean_err",
    "e2e_mean_err",
    "ttft_mean_err",
    "tpot_p99_err",
    "e2e_p99_err",
    "ttft_p99_err",
    "requests",
]


def record(folder: Path, profile: Path, constants: Constants) -> Path:
    """A run of an engine that is exactly the profile's, and a constant."""
    arrivals = [SimulatedRequest(f"b-{n}", 0.2 * n, 30 + 41 * n % 800, 20 + 59 * n % 150) for n in range(40)]
    model = replace(LayerProfile(profile, 32, 4096, captured_tokens=32).model(), constants=constants)
    replay = Replay(EngineSimulation(LIMITS, KernelLatency((1.0, 2.0), (1.0, 1.0)), arrivals), model)
    lines = [
        {
            "request_id": request.id,
            "input_toks": request.prompt_tokens,
            "output_toks": request.output_tokens,
            "queued_ts": 1000 + request.arrival_s,
            "scheduled_ts": 1000 + replay.scheduled_s[request.id],
            "first_token_ts": 1000 + outcome.first_token_s,
            "last_token_ts": 1000 + outcome.finish_s,
        }
        for request, outcome in zip(arrivals, replay.run(), strict=True)
    ]
    folder.mkdir()
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = {"max_num_seqs": 16, "max_num_batched_tokens": 512, "max_model_len": 4096}
    (folder / "meta.json").write_text(json.dumps({"model": "tiny", "engine_kwargs": flags}))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, float], str]:
    main(["ground-truth", *arguments])
    output = capsys.readouterr().out
    return json.loads(output.splitlines()[-1]), output


def test_an_engine_that_is_as_its_profile_says_is_foretold_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, Constants())
    with pytest.raises(SystemExit) as caught:
        run(capsys, "--profile", str(profile), "--run", str(folder))
    assert caught.value.code == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(summary) == KEYS
    assert summary["requests"] == 40
    assert [summary[key] for key in KEYS[:-1]] == pytest.approx([0.0] * 6, abs=1e-4)


def test_a_constant_learned_from_one_half_is_right_for_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, Constants(step_s=0.001))
    with pytest.raises(SystemExit):
        run(capsys, "--profile", str(profile), "--run", str(folder))
    output = capsys.readouterr().out
    assert json.loads(output.splitlines()[-1])["tpot_mean_err"] < -0.01
    assert "profile alone (+0 us per step)" in output
    fitted = [line for line in output.splitlines() if "fitted on the" in line]
    assert len(fitted) == 2
    for line in fitted:
        assert 950 < float(line.partition("(+")[2].partition(" us")[0]) < 1050


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("meta.json", '{"model": "x"}', "engine_kwargs: Field required"),
        ("requests.jsonl", "", "no requests"),
        ("requests.jsonl", '{"request_id": "a"}', "requests.jsonl:1: input_toks"),
    ],
)
def test_a_damaged_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, wrong: str
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, Constants())
    (folder / file).write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["ground-truth", "--profile", str(profile), "--run", str(folder)])
    assert caught.value.code == 1
    assert wrong in capsys.readouterr().err


def test_a_workload_tells_which_prompts_begin_alike(tmp_path: Path) -> None:
    profile = layer_profile(tmp_path / "profile")
    recorded = RecordedRun.load(record(tmp_path / "run", profile, Constants()))
    workload = tmp_path / "workload.jsonl"
    lines = [{"input_tok_ids": [7] * 64 + [place] * 32} for place in range(40)]
    workload.write_text("\n".join(map(json.dumps, lines)))
    hashes = [request.block_hashes for request in recorded.arrivals(workload)]
    assert {len(chain) for chain in hashes} == {6}
    assert len({chain[:4] for chain in hashes}) == 1
    assert len(set(hashes)) == 40


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data folder ../shared/data")
def test_a_real_gpu_is_foretold_from_its_profile() -> None:
    """The goal: TPOT within 1.7 %, E2E within 2.2 %, TTFT within -13.6 to +1.3 %, nothing fitted."""
    runs = DATA / "vllm_groundtruth_llmservingsim"
    truth = truth_of(
        DATA / "profiles/llmservingsim/RTXPRO6000/Llama-3.1-8B",
        runs / "RTXPRO6000/Llama-3.1-8B",
        runs / "sharegpt-llama-3.1-8b-300-sps10.jsonl",
    )
    summary = next(truth.variants()).errors.summary()
    assert abs(summary["tpot_mean_err"]) < 0.017
    assert abs(summary["e2e_mean_err"]) < 0.022
    assert -0.136 < summary["ttft_mean_err"] < 0.013
