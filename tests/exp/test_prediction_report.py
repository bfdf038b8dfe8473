"""Errors by load, floors from repetition, goals judged by the worst level."""

from __future__ import annotations

import pytest

from exp.outcome import Outcome
from exp.prediction_report import LevelReport, PredictionReport, report_json
from exp.prediction_run import Level, LevelRuns
from exp.workload import TraceRequest

REQUEST = TraceRequest(0.0, 10, 10)


def _outcome(real_s: float, predicted_s: float | None, error: str = "") -> Outcome:
    predicted_ttft_s = None if predicted_s is None else predicted_s / 10
    return Outcome(
        REQUEST,
        "block",
        ttft_s=real_s / 10,
        e2e_s=real_s,
        predicted_ttft_s=predicted_ttft_s,
        predicted_e2e_s=predicted_s,
        error=error,
    )


def _report(*runs: list[Outcome]) -> LevelReport:
    return LevelReport.of(LevelRuns(Level("half", 0.5), 2.0, tuple(tuple(run) for run in runs)))


def test_errors_are_shares_of_what_came_and_the_floor_is_the_other_run() -> None:
    report = _report([_outcome(1.0, 1.1), _outcome(2.0, 2.2)], [_outcome(1.05, 1.155), _outcome(2.1, 2.31)])
    errors = report.errors["e2e"]
    assert (errors.p50, errors.p90, errors.bias) == pytest.approx((0.1, 0.1, 0.1))
    assert errors.floor == pytest.approx(0.05 / 1.05)
    assert errors.above_floor == pytest.approx(0.1 - 0.05 / 1.05)


def test_one_run_of_a_deterministic_engine_has_no_floor() -> None:
    assert _report([_outcome(1.0, 0.9)]).errors["ttft"].floor == 0.0


def test_failures_and_missing_predictions_are_counted_not_judged() -> None:
    report = _report(
        [_outcome(1.0, 1.0), _outcome(1.0, None)], [_outcome(1.0, 1.0), _outcome(9.0, 1.0, "boom")]
    )
    assert (report.requests, report.failed, report.unpredicted) == (2, 1, 1)
    assert report.errors["e2e"].p50 == 0.0


@pytest.mark.parametrize(("predicted_s", "met"), [(1.02, True), (1.05, False)])
def test_the_worst_level_decides(predicted_s: float, met: bool) -> None:
    good, other = _report([_outcome(1.0, 1.0)]), _report([_outcome(1.0, predicted_s)])
    result = report_json("simulated", [PredictionReport("m", (good, other))])
    assert result["goals_met"] is met
    assert bool(result["goals_reason"]) is not met
    assert result["e2e_median_err"] == pytest.approx(predicted_s - 1.0)


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (([_outcome(1.0, 1.0), _outcome(1.0, None)],), "m, half: 0 failed, 1 without a prediction"),
        (([_outcome(1.0, 1.0), _outcome(1.0, 1.0, "boom")],), "m, half: 1 failed, 0 without a prediction"),
        (([_outcome(1.0, 1.0)], [_outcome(1.2, 1.2)]), "the floor of e2e, 16.7%, is above the goal of 3%"),
        ((), "e2e: nothing was judged"),
    ],
)
def test_runs_that_cannot_tell_meet_no_goal_and_miss_none(runs, reason: str) -> None:
    result = report_json("real-cpu", [PredictionReport("m", (_report(*runs),))])
    assert result["goals_met"] is None
    assert reason in result["goals_reason"]
