"""Fitting recorded steps: the truth is found again, pauses do not pull, and the report is honest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from step_traffic import Traffic

from block.errors import PackError
from block.latency.base import KernelLatency
from block.latency.fit import choose_knots, fit, fit_kernel
from block.latency.fitted import FittedLatency, Provenance
from block.latency.load import load_latency
from block.latency.shapes import kernel_seconds, shape_array
from block.types import BatchShape

TRUTH = KernelLatency((1.0, 64.0, 256.0, 512.0), (0.020, 0.022, 0.040, 0.054), 7e-7, 7e-9, 2e-5)
PROVENANCE = Provenance(source="imagined engine", date="2026-11-20", versions={"vllm": "0.32.0"})


def _steps(pauses: float = 0.0, noise: float = 0.02) -> list[tuple[BatchShape, float]]:
    traffic = Traffic(seed=5, rate_per_s=4, noise=noise, pauses=pauses)
    return [(r.shape, r.duration_s) for r in traffic.records(TRUTH.seconds, 120)]


@pytest.mark.parametrize("pauses", [0.0, 0.02])
def test_finds_the_truth_in_noise_and_pauses(pauses: float) -> None:
    steps = _steps(pauses)
    kernel = fit_kernel(shape_array(s for s, _ in steps), np.array([t for _, t in steps]))
    shapes = shape_array(s for s, _ in steps)
    off = np.abs(kernel_seconds(kernel, shapes) / kernel_seconds(TRUTH, shapes) - 1)
    assert np.median(off) < 0.005
    assert np.quantile(off, 0.99) < 0.03
    assert kernel.per_context_token_s == pytest.approx(TRUTH.per_context_token_s, rel=0.1)


def test_report_shows_both_methods_near_the_noise() -> None:
    report = fit(_steps(), "engine", PROVENANCE).report
    # The median of |N(0, 2 %)| is 1.35 %.
    assert report.linear.median == pytest.approx(0.0135, abs=0.003)
    assert report.boosted.median < 0.02
    assert report.boosted_form.median < 0.025
    assert report.held_out_steps == pytest.approx(report.steps / 4, rel=0.1)


def test_trees_see_a_bend_that_the_form_cannot() -> None:
    def bent(shape: BatchShape) -> float:
        return TRUTH.seconds(shape) * (1.5 if shape.context_tokens > 25_000 else 1.0)

    traffic = Traffic(seed=6, rate_per_s=6, noise=0.01)
    report = fit(((r.shape, r.duration_s) for r in traffic.records(bent, 200)), "e", PROVENANCE).report
    assert report.boosted.p90 < report.linear.p90 / 2


@pytest.mark.parametrize("method", ["linear", "boosted"])
def test_a_fit_is_kept_whole(tmp_path: Path, method) -> None:
    fitted = fit(_steps(), "engine", PROVENANCE, method)
    fitted.save(tmp_path / "engine.yaml")
    kept = load_latency(tmp_path / "engine.yaml")
    assert isinstance(kept, FittedLatency)
    assert kept.method == method
    assert kept.provenance == PROVENANCE
    assert kept.report == fitted.report
    shape = BatchShape(100, 10, 5000, 30_000, 11)
    assert kept.seconds(shape) == pytest.approx(fitted.seconds(shape), rel=1e-12)
    assert kept.covers(shape)
    assert not kept.covers(BatchShape(100_000, 0, 100_000, 0, 1))


def test_curve_never_falls() -> None:
    random = np.random.default_rng(3)
    shapes = shape_array(BatchShape(int(t), 0, int(t), 0, 1) for t in random.integers(2, 500, 400))
    falling = 0.1 - shapes[:, 0] * 1e-4 + random.normal(0, 0.001, 400)
    assert all(np.diff(fit_kernel(shapes, falling).token_seconds) >= 0)


def test_knots_need_steps_between_them() -> None:
    knots = choose_knots(np.array([*range(1, 33)] * 4 + [400.0]))
    assert knots[0] == 1
    assert knots[-1] == 400
    assert not any(64 <= knot <= 256 for knot in knots[:-1])


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(PackError, match="at least 50"):
        fit(_steps()[:20], "engine", PROVENANCE)
