"""Simulated against recorded times of the same requests: queueing, TTFT, TPOT, E2E."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Self

import numpy as np
import numpy.typing as npt

from block.latency.least_squares import Floats

METRICS = ("queue", "ttft", "tpot", "e2e")
STATISTICS: Mapping[str, float | None] = {"mean": None, "p50": 50, "p90": 90, "p99": 99}

_NOTICEABLE_S = 1e-3
"""Shorter times have no relative error worth a figure."""


@dataclass(frozen=True)
class RequestTimes:
    """One row per request, in a common order; seconds, nan where a metric does not apply."""

    values: Mapping[str, Floats]

    @classmethod
    def of(cls, times: Floats, output_tokens: npt.NDArray[np.int64]) -> Self:
        """From (requests, 4): queued, scheduled, first and last token."""
        queued, scheduled, first, last = times.T
        spaced = np.where(output_tokens > 1, output_tokens - 1, np.nan)
        return cls(
            {
                "queue": scheduled - queued,
                "ttft": first - queued,
                "tpot": (last - first) / spaced,
                "e2e": last - queued,
            }
        )

    def only(self, rows: npt.NDArray[np.bool_]) -> RequestTimes:
        """Some of the requests."""
        return RequestTimes({name: values[rows] for name, values in self.values.items()})

    def statistic(self, metric: str, statistic: str) -> float:
        """Seconds; nan where the metric applies to no request."""
        values, level = self.values[metric], STATISTICS[statistic]
        told = values[np.isfinite(values)]
        if not len(told):
            return float("nan")
        return float(told.mean() if level is None else np.percentile(told, level))


@dataclass(frozen=True)
class LatencyErrors:
    """How far the simulated times are off."""

    recorded: RequestTimes
    simulated: RequestTimes

    def relative(self, metric: str, statistic: str) -> float:
        """Signed fraction of the recorded statistic; nan where that is next to nothing."""
        recorded = self.recorded.statistic(metric, statistic)
        if not recorded >= _NOTICEABLE_S:
            return float("nan")
        return self.simulated.statistic(metric, statistic) / recorded - 1

    def per_request(self, metric: str, level: float = 50) -> float:
        """Percentile of the absolute relative errors of single requests, of those that waited at all."""
        recorded, simulated = self.recorded.values[metric], self.simulated.values[metric]
        told = np.isfinite(recorded) & (recorded >= _NOTICEABLE_S)
        if not told.any():
            return float("nan")
        return float(np.percentile(np.abs(simulated[told] / recorded[told] - 1), level))

    def summary(self) -> dict[str, float | int | None]:
        """What the last line of the command says; None where there is nothing to compare."""
        names = [(metric, statistic) for statistic in ("mean", "p99") for metric in ("tpot", "e2e", "ttft")]
        relative = {f"{metric}_{what}_err": self.relative(metric, what) for metric, what in names}
        errors = {name: round(error, 5) if isfinite(error) else None for name, error in relative.items()}
        return {**errors, "requests": len(self.recorded.values["ttft"])}
