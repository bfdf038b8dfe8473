"""What a run of requests came to: figures per policy, a table for people, a mapping for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from exp.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and percentiles of one measure."""

    mean: float
    p50: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Distribution | None:
        """None when nothing was measured."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        p50, p99 = np.percentile(known, [50, 99])
        return cls(float(np.mean(known)), float(p50), float(p99))


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """The figures of one policy; measures that no request had are None."""

    policy: str
    requests: int
    failed: int
    fallbacks: int
    """Requests that a heuristic placed because no predictor answered."""
    ttft_s: Distribution | None
    tpot_s: Distribution | None
    e2e_s: Distribution | None
    decision_s: Distribution | None
    """What the scheduler took to choose an instance."""
    prediction_error: float | None
    """Median of |predicted E2E - real E2E| / real E2E."""
    output_tokens: int
    per_instance: Mapping[str, int]
    worst_lateness_s: float
    """Of the client itself; large values mean that the load was not as asked for."""

    @classmethod
    def of(cls, policy: str, outcomes: list[Outcome]) -> PolicyReport:
        """Sum up the outcomes of one run."""
        good = [outcome for outcome in outcomes if not outcome.error]
        instances = sorted({outcome.instance for outcome in good if outcome.instance})
        return cls(
            policy=policy,
            requests=len(outcomes),
            failed=len(outcomes) - len(good),
            fallbacks=sum(outcome.fallback is not None for outcome in good),
            ttft_s=Distribution.of(outcome.ttft_s for outcome in good),
            tpot_s=Distribution.of(outcome.tpot_s for outcome in good),
            e2e_s=Distribution.of(outcome.e2e_s for outcome in good),
            decision_s=Distribution.of(outcome.decision_s for outcome in good),
            prediction_error=_prediction_error(good),
            output_tokens=sum(outcome.output_tokens or 0 for outcome in good),
            per_instance={name: sum(o.instance == name for o in good) for name in instances},
            worst_lateness_s=max((outcome.lateness_s for outcome in outcomes), default=0.0),
        )


def report_json(reports: list[PolicyReport], source: str) -> dict[str, Any]:
    """All runs as one JSON-ready mapping."""
    return {
        "requests": sum(report.requests for report in reports),
        "failed": sum(report.failed for report in reports),
        "workload": source,
        "policies": {report.policy: asdict(report) for report in reports},
    }


def report_table(reports: list[PolicyReport]) -> Table:
    """One row per measure, one column per policy."""
    table = Table(title="mean / p50 / p99")
    table.add_column("measure")
    for report in reports:
        table.add_column(report.policy, justify="right")
    rows = (
        ("TTFT, s", [_three(report.ttft_s, 1.0, 2) for report in reports]),
        ("TPOT, ms", [_three(report.tpot_s, 1e3, 1) for report in reports]),
        ("E2E, s", [_three(report.e2e_s, 1.0, 2) for report in reports]),
        ("scheduling overhead, ms", [_three(report.decision_s, 1e3, 2) for report in reports]),
        ("predicted against real E2E, median error", [_percent(r.prediction_error) for r in reports]),
        ("requests", [str(report.requests) for report in reports]),
        ("failed", [str(report.failed) for report in reports]),
        ("placed without a prediction", [str(report.fallbacks) for report in reports]),
        ("per instance", [" / ".join(map(str, r.per_instance.values())) or "-" for r in reports]),
        ("client at most late by, ms", [f"{report.worst_lateness_s * 1e3:.0f}" for report in reports]),
    )
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def failures(outcomes: Sequence[Outcome], most: int = 5) -> list[str]:
    """The first few failures, a line each."""
    failed = [outcome for outcome in outcomes if outcome.error]
    lines = [f"failed under {outcome.policy}: {outcome.error}" for outcome in failed[:most]]
    return lines + ([f"... and {len(failed) - most} more"] if len(failed) > most else [])


def _prediction_error(outcomes: list[Outcome]) -> float | None:
    errors = [
        abs(outcome.predicted_e2e_s - outcome.e2e_s) / outcome.e2e_s
        for outcome in outcomes
        if outcome.predicted_e2e_s is not None and outcome.e2e_s
    ]
    return float(np.median(errors)) if errors else None


def _three(distribution: Distribution | None, scale: float, digits: int) -> str:
    if distribution is None:
        return "-"
    values = (distribution.mean, distribution.p50, distribution.p99)
    return " / ".join(f"{value * scale:.{digits}f}" for value in values)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
