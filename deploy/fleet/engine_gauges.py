"""What vLLM's own metrics page says of one engine. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SAMPLE = re.compile(r"^vllm:(\w+?)(?:\{[^}]*\})? ([0-9.eE+-]+|NaN)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """Counts since the engine's start, and what it has now. Means are None before the first request."""

    running: int
    waiting: int
    requests: int
    mean_ttft_s: float | None
    mean_e2e_s: float | None
    mean_prompt_tokens: int
    mean_output_tokens: int

    @property
    def outstanding(self) -> int:
        """Requests that are not over."""
        return self.running + self.waiting


def read_gauges(page: str) -> EngineGauges:
    """Sum what engines of one server say each for itself; what is missing counts as none."""
    totals: dict[str, float] = {}
    for name, value in _SAMPLE.findall(page):
        totals[name] = totals.get(name, 0.0) + float(value)
    requests = totals.get("e2e_request_latency_seconds_count", 0.0)

    def mean(name: str) -> float | None:
        count = totals.get(f"{name}_count", 0.0)
        return totals.get(f"{name}_sum", 0.0) / count if count else None

    return EngineGauges(
        running=int(totals.get("num_requests_running", 0)),
        waiting=int(totals.get("num_requests_waiting", 0)),
        requests=int(requests),
        mean_ttft_s=mean("time_to_first_token_seconds"),
        mean_e2e_s=mean("e2e_request_latency_seconds"),
        mean_prompt_tokens=round(mean("request_prompt_tokens") or 0),
        mean_output_tokens=round(mean("request_generation_tokens") or 0),
    )
