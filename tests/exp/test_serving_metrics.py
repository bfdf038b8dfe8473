"""Figures of logs that were made up, so that every figure is known."""

from __future__ import annotations

import pytest

from block.errors import StateError
from exp.run_log import RequestLog, RunHeader, RunLog
from exp.serving_metrics import ERROR_KEYS, ServingMetrics, relative_errors, worst

HEADER = RunHeader("real", "made up", 0.0, 9.0, preemptions=3, kv_use_mean=0.25, kv_use_max=0.5)


def steady(sent_s: float, ttft_s: float, gap_s: float, tokens: int) -> RequestLog:
    times = tuple(sent_s + ttft_s + gap_s * index for index in range(tokens))
    return RequestLog(sent_s, sent_s, 10, tokens, times)


def test_every_measure_of_two_steady_requests() -> None:
    run = RunLog(HEADER, (steady(0.0, 0.5, 0.1, 11), steady(1.0, 0.3, 0.2, 6)))
    metrics = ServingMetrics.of(run)
    assert metrics.ttft_s.mean == pytest.approx(0.4)
    assert metrics.ttft_s.p50 == pytest.approx(0.4)
    assert metrics.ttft_s.p99 == pytest.approx(0.498)
    assert metrics.tpot_s.mean == pytest.approx(0.15)
    # Ten gaps of 0.1 s and five of 0.2 s: gaps count, not requests.
    assert metrics.itl_s.mean == pytest.approx(2.0 / 15)
    assert metrics.itl_s.p50 == pytest.approx(0.1)
    assert metrics.itl_s.p90 == pytest.approx(0.2)
    assert metrics.e2e_s.mean == pytest.approx((1.5 + 1.3) / 2)
    assert metrics.throughput_per_s == pytest.approx(17 / 2.3)
    assert (metrics.preemptions, metrics.kv_use_mean, metrics.kv_use_max) == (3, 0.25, 0.5)


def test_times_start_when_a_request_was_sent_and_not_when_it_was_due() -> None:
    late = RequestLog(1.0, 1.2, 10, 2, (1.5, 1.6))
    metrics = ServingMetrics.of(RunLog(HEADER, (late,)))
    assert metrics.ttft_s.mean == pytest.approx(0.3)
    assert RunLog(HEADER, (late,)).worst_lateness_s == pytest.approx(0.2)


def test_a_request_of_one_token_has_no_tpot_but_counts_otherwise() -> None:
    metrics = ServingMetrics.of(RunLog(HEADER, (steady(0.0, 0.4, 0.1, 5), steady(0.0, 0.2, 0.0, 1))))
    assert metrics.tpot_s.mean == pytest.approx(0.1)
    assert metrics.ttft_s.mean == pytest.approx(0.3)


def test_failed_requests_are_counted_and_otherwise_left_out() -> None:
    failed = RequestLog(0.0, 0.0, 10, 9, (5.0,), "HTTP status 500")
    metrics = ServingMetrics.of(RunLog(HEADER, (steady(0.0, 0.5, 0.1, 3), failed)))
    assert (metrics.requests, metrics.failed) == (2, 1)
    assert metrics.ttft_s.mean == pytest.approx(0.5)


def test_a_run_without_answers_is_refused_with_its_first_error() -> None:
    failed = RequestLog(0.0, 0.0, 10, 9, (), "no connection")
    with pytest.raises(StateError, match=r"made up: .* no connection"):
        ServingMetrics.of(RunLog(HEADER, (failed,)))


def test_errors_are_signed_fractions_of_the_truth() -> None:
    truth = ServingMetrics.of(RunLog(HEADER, (steady(0.0, 0.5, 0.1, 11),)))
    slow = ServingMetrics.of(RunLog(HEADER, (steady(0.0, 0.4, 0.12, 11),)))
    errors = relative_errors(slow, truth)
    assert set(ERROR_KEYS) < set(errors)
    assert errors["ttft_mean_err"] == pytest.approx(-0.2)
    assert errors["tpot_mean_err"] == pytest.approx(0.2)
    assert errors["itl_p99_err"] == pytest.approx(0.2)
    assert errors["e2e_mean_err"] == pytest.approx(1.6 / 1.5 - 1)
    assert errors["throughput_err"] == pytest.approx(1.5 / 1.6 - 1)
    assert relative_errors(truth, truth)["e2e_mean_err"] == 0.0


def test_the_worst_error_keeps_its_sign() -> None:
    assert worst([{"a": 0.02}, {"a": -0.05}, {"a": 0.04}], "a") == -0.05


def test_means_of_runs_of_the_same_load() -> None:
    runs = [ServingMetrics.of(RunLog(HEADER, (steady(0.0, ttft, 0.1, 5),))) for ttft in (0.2, 0.4)]
    mean = ServingMetrics.mean_of(runs)
    assert mean.ttft_s.mean == pytest.approx(0.3)
    assert mean.tpot_s.p90 == pytest.approx(0.1)
    assert (mean.requests, mean.preemptions) == (1, 3)
