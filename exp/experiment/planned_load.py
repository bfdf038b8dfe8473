"""The load that a fleet is planned for: a trace as it was recorded, or drawn arrivals, at a wanted rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from block.errors import ConfigError
from exp.experiment.cell import Traffic
from exp.workload import TraceRequest, WorkloadSpec, recorded_trace

_RATE_PER_S = 20.0
_REQUESTS = 2000


@dataclass(frozen=True, slots=True)
class PlannedLoad:
    """What every simulation of a plan is given."""

    traffic: Traffic
    requests: int
    rate_per_s: float
    repeated: bool
    """Whether all seeds have the same requests at the same times, for the trace has no more."""

    @classmethod
    def of(cls, traffic: Traffic, requests: int | None, rate_per_s: float | None, data: Path) -> PlannedLoad:
        """Without ``requests``, 2,000 or as many as a trace has; without a rate, a trace's own, else 20/s.

        Seeds take stretches of a recorded trace. Raises ConfigError for a trace that is absent or damaged.
        """
        spec = WorkloadSpec(requests or 1, rate_per_s, data, most_tokens=traffic.most_tokens)
        found = recorded_trace(traffic.name, spec)
        if found is None:
            return cls(traffic, requests or _REQUESTS, rate_per_s or _RATE_PER_S, repeated=False)
        trace = found[1]
        fitting = trace.fitting(spec)
        if len(fitting) < 2:
            raise ConfigError(
                f"{trace.file}: has {len(fitting)} requests of at most {traffic.most_tokens} tokens; "
                "raise --max-model-len, or name another trace"
            )
        count = requests or min(_REQUESTS, len(fitting))
        own = _rate_of(fitting) if trace.timed else None
        return cls(
            traffic.model_copy(update={"in_order": trace.timed}),
            count,
            rate_per_s or own or _RATE_PER_S,
            repeated=trace.timed and len(fitting) <= count,
        )


def _rate_of(requests: list[TraceRequest]) -> float | None:
    """Mean rate of what was recorded; None if all came at once."""
    times = [request.arrival_s for request in requests]
    span_s = max(times) - min(times)
    return (len(times) - 1) / span_s if span_s > 0 else None
