from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from block.errors import ConfigError
from exp.workload import Workload, WorkloadSpec, load_workload

NOWHERE = Path("nowhere")


def write_sharegpt(data: Path, pairs: list[tuple[int, int]]) -> None:
    folder = data / "vidur_traces"
    folder.mkdir(parents=True)
    lines = [f"{p},{d},{p + d},{p / d}" for p, d in pairs]
    header = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio"
    (folder / "sharegpt_val_10k_llama2.csv").write_text("\n".join([header, *lines]) + "\n")


def write_azure(data: Path, rows: list[str]) -> None:
    folder = data / "azure_llm_2023"
    folder.mkdir(parents=True)
    text = "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n"
    (folder / "AzureLLMInferenceTrace_conv.csv").write_text(text)


@pytest.fixture(scope="module")
def large() -> Workload:
    return load_workload("generated", WorkloadSpec(count=20_000, rate_per_s=6.0, data=NOWHERE, seed=1))


@pytest.mark.parametrize(
    ("measure", "published", "tolerance"),
    [("mean", 246, 0.08), (50, 35, 0.08), (90, 761, 0.08), (99, 2863, 0.08)],
)
def test_generated_prompts_have_the_published_lengths(
    large: Workload, measure: str | int, published: float, tolerance: float
) -> None:
    assert statistic([r.prompt_tokens for r in large.requests], measure) == pytest.approx(
        published, rel=tolerance
    )


@pytest.mark.parametrize(
    ("measure", "published", "tolerance"),
    [("mean", 326, 0.04), (50, 286, 0.05), (90, 682, 0.08), (99, 1001, 0.06)],
)
def test_generated_responses_have_the_published_lengths(
    large: Workload, measure: str | int, published: float, tolerance: float
) -> None:
    assert statistic([r.output_tokens for r in large.requests], measure) == pytest.approx(
        published, rel=tolerance
    )


def statistic(values: list[int], measure: str | int) -> float:
    return float(np.mean(values) if measure == "mean" else np.percentile(values, int(measure)))


def test_arrivals_are_poisson_at_the_wanted_rate(large: Workload) -> None:
    arrivals = np.array([request.arrival_s for request in large.requests])
    gaps = np.diff(arrivals)
    assert arrivals[0] == 0.0
    assert large.rate_per_s == pytest.approx(6.0, rel=0.03)
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(1.0, rel=0.03)


def test_no_request_is_longer_than_allowed() -> None:
    spec = WorkloadSpec(count=500, rate_per_s=1.0, data=NOWHERE, most_tokens=300)
    workload = load_workload("generated", spec)
    assert len(workload.requests) == 500
    assert max(r.prompt_tokens + r.output_tokens for r in workload.requests) <= 300


@pytest.mark.parametrize("name", ["generated", "sharegpt"])
def test_the_seed_decides_all(name: str, tmp_path: Path) -> None:
    write_sharegpt(tmp_path, [(i, 2 * i) for i in range(1, 100)])

    def made(seed: int) -> Workload:
        return load_workload(name, WorkloadSpec(count=20, rate_per_s=2.0, data=tmp_path, seed=seed))

    assert made(3) == made(3)
    assert made(3) != made(4)


def test_sharegpt_lengths_are_drawn_from_the_file_without_repetition(tmp_path: Path) -> None:
    pairs = [(i, 2 * i) for i in range(1, 51)]
    write_sharegpt(tmp_path, [*pairs, (4000, 90)])  # the last one is too long
    workload = load_workload("auto", WorkloadSpec(count=50, rate_per_s=2.0, data=tmp_path))
    assert workload.source.startswith("ShareGPT")
    assert sorted((r.prompt_tokens, r.output_tokens) for r in workload.requests) == pairs


def test_azure_keeps_the_recorded_pattern_at_the_wanted_rate(tmp_path: Path) -> None:
    times = ["00.0000000", "01.0000000", "04.0000000"]
    rows = [f"2023-11-16 18:15:{time},{100 + i},{10 + i}" for i, time in enumerate(times)]
    write_azure(tmp_path, rows)
    workload = load_workload("azure", WorkloadSpec(count=3, rate_per_s=1.0, data=tmp_path))
    assert [r.arrival_s for r in workload.requests] == pytest.approx([0.0, 0.5, 2.0])
    assert [(r.prompt_tokens, r.output_tokens) for r in workload.requests] == [
        (100, 10),
        (101, 11),
        (102, 12),
    ]


@pytest.mark.parametrize("recorded_times", [True, False])
def test_each_seed_takes_another_stretch_of_a_trace_in_its_order(
    recorded_times: bool, tmp_path: Path
) -> None:
    rows = [f"2023-11-16 18:15:{second:02}.0000000,{100 + second},10" for second in range(50)]
    write_azure(tmp_path, rows)

    def prompts(seed: int) -> list[int]:
        spec = WorkloadSpec(20, 2.0, tmp_path, seed, recorded_times=recorded_times, in_order=True)
        return [request.prompt_tokens for request in load_workload("azure", spec).requests]

    assert prompts(0) == list(range(100, 120))
    assert prompts(1) == list(range(120, 140))
    assert len(prompts(2)) == 20  # the trace ends: begun anew


def test_without_data_the_lengths_are_generated() -> None:
    workload = load_workload("auto", WorkloadSpec(count=5, rate_per_s=1.0, data=NOWHERE))
    assert workload.source.startswith("generated")
    assert len(workload.requests) == 5


def test_a_trace_that_is_absent_or_too_short_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the data folder with --data"):
        load_workload("sharegpt", WorkloadSpec(count=5, rate_per_s=1.0, data=NOWHERE))
    write_sharegpt(tmp_path, [(1, 1)])
    with pytest.raises(ConfigError, match=r"has 1 requests .* not 5; ask for fewer"):
        load_workload("sharegpt", WorkloadSpec(count=5, rate_per_s=1.0, data=tmp_path))
    with pytest.raises(ConfigError, match=r"unknown; known here: auto, sharegpt, .*azure, .*generated"):
        load_workload("burst", WorkloadSpec(count=5, rate_per_s=1.0, data=NOWHERE))
