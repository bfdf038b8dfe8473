"""Generated workloads: bursts and the lengths of BurstGPT; ShareGPT's are held in test_catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exp.workload import WorkloadSpec, load_workload


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_wanted_rate_and_burstiness(burstiness: float) -> None:
    spec = WorkloadSpec(20_000, 6.0, Path("nowhere"), seed=1, burstiness=burstiness)
    workload = load_workload("generated", spec)
    gaps = np.diff([request.arrival_s for request in workload.requests])
    assert workload.rate_per_s == pytest.approx(6.0, rel=0.05)
    # A gamma distribution's coefficient of variation is one over the root of its shape.
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)


def test_burstgpt_has_its_published_means() -> None:
    spec = WorkloadSpec(20_000, 6.0, Path("nowhere"), seed=1, most_tokens=100_000)
    requests = load_workload("generated-burstgpt", spec).requests
    assert np.mean([r.prompt_tokens for r in requests]) == pytest.approx(763, rel=0.05)
    assert np.mean([r.output_tokens for r in requests]) == pytest.approx(348, rel=0.05)


def test_the_mix_has_long_prompts_and_long_answers_and_seldom_both() -> None:
    requests = load_workload("generated-mix", WorkloadSpec(4000, 10.0, Path("nowhere"), seed=1)).requests
    documents = [r for r in requests if r.prompt_tokens > 1200]
    essays = [r for r in requests if r.output_tokens > 700]
    assert 0.12 < len(documents) / len(requests) < 0.25
    assert 0.1 < len(essays) / len(requests) < 0.25
    assert len(set(documents) & set(essays)) < len(requests) / 50
