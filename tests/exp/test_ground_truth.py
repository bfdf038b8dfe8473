"""``block-exp ground-truth`` on a run made here, whose truth is known, and on a recorded one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from operator_profiles import layer_profile

from block.errors import ConfigError
from block.latency.base import KernelLatency
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.types import EngineLimits
from exp.cli import main
from exp.ground_truth import truth_of
from exp.ground_truth_fit import RunConstants, fit_constants
from exp.recorded_run import RecordedRun
from vidur_adapter.attention import MixedAttention
from vidur_adapter.llmservingsim import LayerProfile
from vidur_adapter.model import OperatorModel
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


META = '{"model": "tiny/%s", "engine_kwargs": {%s}}'
LINE = (
    '{"request_id": "%s", "input_toks": 100, "output_toks": 20, "queued_ts": 1.0, "scheduled_ts": 2.0, '
    '"first_token_ts": %s, "last_token_ts": %s}'
)


def record(folder: Path, profile: Path, constants: RunConstants) -> Path:
    """A run of an engine that is exactly the profile's, but for two constants."""
    arrivals = [SimulatedRequest(f"b-{n}", 0.2 * n, 30 + 41 * n % 800, 20 + 59 * n % 150) for n in range(40)]
    model = constants.of(LayerProfile(profile, 32, 4096, captured_tokens=32).model())
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
    (folder / "meta.json").write_text(json.dumps({"model": "tiny/llama-3.1-8b", "engine_kwargs": flags}))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, float], str]:
    main(["ground-truth", *arguments])
    output = capsys.readouterr().out
    return json.loads(output.splitlines()[-1]), output


def test_an_engine_that_is_as_its_profile_says_is_foretold_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants())
    with pytest.raises(SystemExit) as caught:
        run(capsys, "--profile", str(profile), "--run", str(folder))
    assert caught.value.code == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(summary) == KEYS
    assert summary["requests"] == 40
    assert [summary[key] for key in KEYS[:-1]] == pytest.approx([0.0] * 6, abs=1e-4)


def test_constants_learned_from_one_half_are_right_for_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants(0.001, 2.5))
    with pytest.raises(SystemExit):
        run(capsys, "--profile", str(profile), "--run", str(folder))
    output = capsys.readouterr().out
    assert json.loads(output.splitlines()[-1])["tpot_mean_err"] < -0.01
    assert "profile alone (+0 us per step, unevenness x 1.00)" in output
    fitted = re.findall(r"fitted on the .* half \(\+(\d+) us per step, unevenness x ([\d.]+)\)", output)
    assert len(fitted) == 2
    for step_us, unevenness in fitted:
        assert float(step_us) == pytest.approx(1000, rel=0.05)
        assert float(unevenness) == pytest.approx(2.5, rel=0.15)


def test_unevenness_is_never_taken_to_save_time(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path), 32, 4096).model()
    recorded = np.full(8, 0.02)

    def tpot_of(tried: OperatorModel) -> npt.NDArray[np.float64]:
        """Grows with both constants, of which a negative factor would fit best."""
        assert isinstance(tried.attention, MixedAttention)
        assert tried.attention.skew is not None
        return (
            0.02 + tried.constants.step_s + np.linspace(0.001, 0.004, 8) * (tried.attention.skew.factor + 1)
        )

    found = fit_constants(model, tpot_of, recorded, np.ones(8, dtype=bool))
    assert found.unevenness == 0
    assert -0.004 < found.step_s < -0.001  # somewhere among what is too much


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("meta.json", '{"model": "x"}', "engine_kwargs: Field required"),
        ("requests.jsonl", "", "no requests"),
        ("requests.jsonl", '{"request_id": "a"}', "requests.jsonl:1: input_toks"),
        (
            "meta.json",
            META % ("llama-3.1-8b", '"pipeline_parallel_size": 2'),
            "engine_kwargs: pipeline_parallel_size = 2: not simulated",
        ),
        ("meta.json", META % ("llama-3.1-8b", '"kv_cache_dtype": "fp8"'), "runs with 'auto' can be judged"),
        ("meta.json", META % ("qwen3-32b", '"max_num_seqs": 16'), "their step times differ"),
        ("meta.json", META % ("llama-3.1-8b", '"dtype": "float32"'), "runs with 'bfloat16' can be judged"),
        ("requests.jsonl", LINE % ("a-0", 3.0, 2.5), "must not fall"),
        ("requests.jsonl", "\n".join([LINE % ("a-0", 3.0, 4.0)] * 2), "request_id 'a-0' comes twice"),
    ],
)
def test_a_damaged_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, wrong: str
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants())
    (folder / file).write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["ground-truth", "--profile", str(profile), "--run", str(folder)])
    assert caught.value.code == 1
    assert wrong in capsys.readouterr().err


def workload_of(path: Path, run: RecordedRun) -> Path:
    """Prompts that begin alike for as many as 64 tokens, one line per request."""
    lengths = {request.request_id: request.input_toks for request in run.requests}
    lines = [
        {"input_tok_ids": ([7] * 64 + [place] * 800)[: lengths[f"b-{place}"]]}
        for place in range(len(lengths))
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_workload_tells_which_prompts_begin_alike(tmp_path: Path) -> None:
    profile = layer_profile(tmp_path / "profile")
    recorded = RecordedRun.load(record(tmp_path / "run", profile, RunConstants()))
    requests = recorded.arrivals(workload_of(tmp_path / "workload.jsonl", recorded))
    assert all(len(each.block_hashes) == each.prompt_tokens // 16 for each in requests)
    long = [each.block_hashes for each in requests if each.prompt_tokens >= 80]
    assert len({chain[:4] for chain in long}) == 1
    assert len({chain[4] for chain in long}) == len(long)


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ('{"input_tok_ids": [1, 2]}\n{bad', "workload.jsonl:2: "),
        ('{"input_tok_ids": [1, 2]}\n' * 40, "has 2 tokens, b-0 had 30; name the workload that was sent"),
        ('{"input_tok_ids": ["a"]}', "workload.jsonl:1: input_tok_ids.0"),
        ('{"tokens": [1]}', "workload.jsonl:1: input_tok_ids"),
        ('{"input_tok_ids": %s}' % ([1] * 30), "has 1 lines, none for b-1"),
    ],
)
def test_a_workload_that_was_not_sent_is_refused(tmp_path: Path, lines: str, wrong: str) -> None:
    profile = layer_profile(tmp_path / "profile")
    recorded = RecordedRun.load(record(tmp_path / "run", profile, RunConstants()))
    workload = tmp_path / "workload.jsonl"
    workload.write_text(lines)
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        recorded.arrivals(workload)


def test_requests_whose_names_have_no_number_need_no_workload(tmp_path: Path) -> None:
    recorded = RecordedRun.load(record(tmp_path / "run", layer_profile(tmp_path / "profile"), RunConstants()))
    workload = workload_of(tmp_path / "workload.jsonl", recorded)
    path = recorded.folder / "requests.jsonl"
    path.write_text(path.read_text().replace('"b-', '"b'))
    renamed = RecordedRun.load(recorded.folder)
    assert len(renamed.arrivals(None)) == 40
    with pytest.raises(ConfigError, match="leave --workload out"):
        renamed.arrivals(workload)


def test_flags_of_the_engine_are_followed(tmp_path: Path) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants())
    assert truth_of(profile, folder).limits.async_scheduling
    flags = (
        '"async_scheduling": false, "enforce_eager": true, "block_size": 32, "num_gpu_blocks_override": 901'
    )
    (folder / "meta.json").write_text(META % ("llama-3.1-8b", flags))
    truth = truth_of(profile, folder)
    limits = truth.limits
    assert (limits.async_scheduling, limits.block_size, limits.total_blocks) == (False, 32, 900)
    assert truth.model.captured_tokens == 0


def test_a_run_of_one_request_has_no_halves_to_fit_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants())
    (folder / "requests.jsonl").write_text(LINE % ("a-0", 2.5, 3.0))
    with pytest.raises(SystemExit) as caught:
        main(["ground-truth", "--profile", str(profile), "--run", str(folder)])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert "fitted" not in output
    assert json.loads(output.splitlines()[-1])["requests"] == 1


@pytest.mark.parametrize(("slope", "most"), [(1e-9, 10.0), (-1e-9, 0.0)])
def test_unevenness_never_explains_what_is_something_else(tmp_path: Path, slope: float, most: float) -> None:
    """A run far slower than simulated, on which unevenness has next to no effect."""
    model = LayerProfile(layer_profile(tmp_path), 32, 4096).model()

    def tpot_of(tried: OperatorModel) -> npt.NDArray[np.float64]:
        assert isinstance(tried.attention, MixedAttention)
        assert tried.attention.skew is not None
        return 0.02 + tried.constants.step_s + slope * np.arange(8.0) * tried.attention.skew.factor

    recorded = np.linspace(0.03, 0.06, 8)
    assert fit_constants(model, tpot_of, recorded, np.ones(8, dtype=bool)).unevenness == most


def test_without_fitting_only_the_profile_alone_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants())
    with pytest.raises(SystemExit) as caught:
        run(capsys, "--profile", str(profile), "--run", str(folder), "--no-fit")
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert "fitted on" not in output
    assert list(json.loads(output.splitlines()[-1])) == KEYS


def test_a_mixture_of_experts_needs_to_say_how_many_a_token_takes(tmp_path: Path) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants())
    config = tmp_path / "config.json"
    config.write_text('{"num_hidden_layers": 2, "hidden_size": 64, "num_experts": 8}')
    with pytest.raises(ConfigError, match="lacks num_experts_per_tok"):
        truth_of(profile, folder, model_config=config)


@pytest.mark.parametrize("name", ["x.nonsense", "nowhere/x.png"])
def test_a_figure_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants())
    arguments = ("--profile", str(profile), "--run", str(folder), "--plot", str(tmp_path / name))
    with pytest.raises(SystemExit) as caught:
        main(["ground-truth", *arguments])
    assert caught.value.code == 1
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert "--plot" in line
    assert not told.out  # before anything is simulated


def test_sizes_that_no_model_has_are_refused(tmp_path: Path) -> None:
    profile = layer_profile(tmp_path / "profile")
    folder = record(tmp_path / "run", profile, RunConstants())
    config = tmp_path / "config.json"
    config.write_text('{"num_hidden_layers": 0, "hidden_size": 64}')
    with pytest.raises(ConfigError, match="num_hidden_layers = 0: must be at least 1"):
        truth_of(profile, folder, model_config=config)


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
