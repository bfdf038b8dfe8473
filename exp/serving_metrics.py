"""TTFT, TPOT, ITL, E2E and output throughput of a run, and how far one run is from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from block.errors import StateError
from exp.run_log import RequestLog, RunLog


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of one measure, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        p50, p90, p99 = np.percentile(values, [50, 90, 99])
        return cls(float(np.mean(values)), float(p50), float(p90), float(p99))


@dataclass(frozen=True, slots=True)
class ServingMetrics:
    """One run in figures. Times start when a request was sent."""

    ttft_s: Spread
    tpot_s: Spread
    """Per request, time per token after the first; requests of one token have none."""
    itl_s: Spread
    """Every gap between two tokens of one request."""
    e2e_s: Spread
    throughput_per_s: float
    """Output tokens per second, from the first request sent to the last token."""
    requests: int
    failed: int
    preemptions: int
    kv_use_mean: float
    kv_use_max: float

    @classmethod
    def of(cls, run: RunLog) -> Self:
        """Raises StateError when no request of more than one token was answered."""
        good = run.good
        several = [request for request in good if len(request.token_s) > 1]
        if not several:
            raise StateError(f"{run.header.name}: nothing to measure, {_first_error(run)}")
        gaps = np.concatenate([np.diff(request.token_s) for request in several])
        return cls(
            ttft_s=Spread.of([request.token_s[0] - request.sent_s for request in good]),
            tpot_s=Spread.of([_tpot_s(request) for request in several]),
            itl_s=Spread.of(gaps.tolist()),
            e2e_s=Spread.of([request.token_s[-1] - request.sent_s for request in good]),
            throughput_per_s=_throughput_per_s(good),
            requests=len(run.requests),
            failed=len(run.requests) - len(good),
            preemptions=run.header.preemptions,
            kv_use_mean=run.header.kv_use_mean,
            kv_use_max=run.header.kv_use_max,
        )

    @classmethod
    def mean_of(cls, runs: Sequence[Self]) -> Self:
        """Of runs of the same load: every figure's mean over the runs; counts are rounded."""
        figures: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(run, field.name) for run in runs]
            if isinstance(values[0], Spread):
                figures[field.name] = Spread(
                    *(float(np.mean([getattr(value, name) for value in values])) for name in STATISTICS)
                )
            else:
                mean = float(np.mean(values))
                figures[field.name] = round(mean) if isinstance(values[0], int) else mean
        return cls(**figures)

    def spread(self, measure: str) -> Spread:
        """One of ttft, tpot, itl, e2e."""
        value = getattr(self, f"{measure}_s")
        assert isinstance(value, Spread)
        return value


MEASURES = ("ttft", "tpot", "itl", "e2e")
STATISTICS = tuple(field.name for field in fields(Spread))
ERROR_KEYS = (*(f"{measure}_mean_err" for measure in MEASURES), "throughput_err")


def relative_errors(run: ServingMetrics, truth: ServingMetrics) -> dict[str, float]:
    """Signed, as fractions of the truth: every measure's mean and percentiles, and throughput."""
    errors = {
        f"{measure}_{statistic}_err": _relative(
            getattr(run.spread(measure), statistic), getattr(truth.spread(measure), statistic)
        )
        for measure in MEASURES
        for statistic in STATISTICS
    }
    errors["throughput_err"] = _relative(run.throughput_per_s, truth.throughput_per_s)
    return errors


def worst(cells: Sequence[dict[str, float]], key: str) -> float:
    """The error that is farthest from zero, with its sign."""
    return max((cell[key] for cell in cells), key=abs)


def _relative(value: float, truth: float) -> float:
    return value / truth - 1.0


def _tpot_s(request: RequestLog) -> float:
    return (request.token_s[-1] - request.token_s[0]) / (len(request.token_s) - 1)


def _throughput_per_s(requests: list[RequestLog]) -> float:
    first_s = min(request.sent_s for request in requests)
    last_s = max(request.token_s[-1] for request in requests)
    return sum(len(request.token_s) for request in requests) / (last_s - first_s)


def _first_error(run: RunLog) -> str:
    errors = [request.error for request in run.requests if request.error]
    return f"the first error: {errors[0]}" if errors else "no request has two tokens"
