from __future__ import annotations

import json
import math

from rich.console import Console

from exp.outcome import Outcome
from exp.report import PolicyReport, failures, report_json, report_table
from exp.workload import TraceRequest

REQUEST = TraceRequest(0.0, 10, 11)


def good(e2e_s: float, predicted_e2e_s: float | None = None) -> Outcome:
    return Outcome(
        REQUEST,
        "block",
        ttft_s=1.0,
        e2e_s=e2e_s,
        output_tokens=11,
        instance="instance-0",
        predicted_e2e_s=predicted_e2e_s,
        decision_s=0.004,
    )


def test_figures_are_of_the_good_requests_and_failures_are_counted() -> None:
    report = PolicyReport.of(
        "block", [good(2.0, 1.0), good(4.0, 5.0), good(6.0), Outcome(REQUEST, "block", error="gone")]
    )
    assert (report.requests, report.failed) == (4, 1)
    assert report.e2e_s is not None
    assert (report.e2e_s.mean, report.e2e_s.p50) == (4.0, 4.0)
    assert report.tpot_s is not None
    assert math.isclose(report.tpot_s.p50, 0.3)
    assert report.prediction_error == 0.375  # the median of 1/2 and 1/4
    assert report.per_instance == {"instance-0": 3}


def test_a_run_in_which_all_failed_can_still_be_shown() -> None:
    report = PolicyReport.of("block", [Outcome(REQUEST, "block", error="gone")])
    assert report.e2e_s is None
    console = Console(width=120, record=True, file=None, quiet=True)
    console.print(report_table([report]))
    assert json.loads(json.dumps(report_json([report], "test")))["failed"] == 1


def test_the_json_adds_up_the_policies() -> None:
    reports = [PolicyReport.of(name, [good(2.0)] * 3) for name in ("round_robin", "block")]
    summary = json.loads(json.dumps(report_json(reports, "test")))
    assert (summary["requests"], summary["failed"]) == (6, 0)
    assert set(summary["policies"]) == {"round_robin", "block"}
    assert summary["policies"]["block"]["e2e_s"] == {"mean": 2.0, "p50": 2.0, "p99": 2.0}


def test_failures_are_listed_briefly() -> None:
    failed = [Outcome(REQUEST, "block", error=f"error {i}") for i in range(7)]
    assert failures([good(2.0), *failed])[-2:] == ["failed under block: error 4", "... and 2 more"]
