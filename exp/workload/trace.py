"""A recorded trace as it was read, and how requests of a workload are taken from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from block.errors import ConfigError
from exp.workload.request import TraceRequest
from exp.workload.spec import WorkloadSpec


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests of a file, in its order."""

    file: Path
    requests: Sequence[TraceRequest]
    timed: bool
    """Whether ``arrival_s`` was recorded; 0 otherwise."""

    def fitting(self, spec: WorkloadSpec) -> list[TraceRequest]:
        """Those that a workload may have, in the file's order."""
        return [r for r in self.requests if spec.fits(r.prompt_tokens, r.output_tokens)]

    def arranged(self, spec: WorkloadSpec) -> tuple[TraceRequest, ...]:
        """The first ones at their recorded times, or a draw without repetition at gamma arrivals; with
        ``in_order`` a stretch of the trace either way.

        Raises ConfigError when the file has too few that fit.
        """
        fitting = self.fitting(spec)
        if len(fitting) < spec.count:
            raise ConfigError(
                f"{self.file}: has {len(fitting)} requests of at most {spec.most_tokens} tokens, "
                f"not {spec.count}; ask for fewer, or for longer ones"
            )
        recorded = self.timed and spec.recorded_times
        random = np.random.default_rng(spec.seed)
        if spec.in_order:
            # Seeds that follow each other take stretches that follow each other, until the trace ends.
            first = spec.seed * spec.count % (len(fitting) - spec.count + 1)
            chosen = fitting[first : first + spec.count]
        elif recorded:
            chosen = fitting[: spec.count]
        else:
            chosen = [fitting[i] for i in random.permutation(len(fitting))[: spec.count]]
        return _stretched(chosen, spec.rate_per_s) if recorded else at_gamma_arrivals(chosen, spec, random)


def at_gamma_arrivals(
    requests: Sequence[TraceRequest], spec: WorkloadSpec, random: np.random.Generator
) -> tuple[TraceRequest, ...]:
    """The requests in this order; the first comes at 0. Raises ConfigError without a rate."""
    if spec.rate_per_s is None:
        raise ConfigError("rate: not given, and there are no recorded arrivals; give a rate")
    scale_s = 1.0 / (spec.rate_per_s * spec.burstiness)
    gaps = random.gamma(spec.burstiness, scale_s, len(requests))
    return _at(requests, np.cumsum(gaps) - gaps[0])


def _stretched(requests: Sequence[TraceRequest], rate_per_s: float | None) -> tuple[TraceRequest, ...]:
    in_order = sorted(requests, key=lambda request: request.arrival_s)
    times = np.array([request.arrival_s for request in in_order])
    times -= times[0]
    if rate_per_s is not None and len(times) > 1:
        if times[-1] <= 0:
            raise ConfigError(
                f"arrivals: all {len(times)} are recorded at one moment, which no rate can stretch; take the "
                "column of times out, or ask for drawn times"
            )
        times *= (len(times) - 1) / times[-1] / rate_per_s
    return _at(in_order, times)


def _at(requests: Sequence[TraceRequest], times: Iterable[float]) -> tuple[TraceRequest, ...]:
    return tuple(
        replace(request, arrival_s=float(at_s)) for request, at_s in zip(requests, times, strict=True)
    )
