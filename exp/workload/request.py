"""A request of a workload, and a workload: requests in the order of their arrival."""

from __future__ import annotations

from dataclasses import dataclass

HASH_TOKENS = 512
"""Prompt tokens that one entry of ``block_hashes`` stands for, as in Mooncake's traces."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a workload."""

    arrival_s: float
    """From the workload's start."""
    prompt_tokens: int
    output_tokens: int
    block_hashes: tuple[int, ...] = ()
    """Equal leading entries mean equal leading ``HASH_TOKENS`` tokens of the prompts."""
    prompt: str = ""
    """The prompt's text, where the trace has it."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in the order of their arrival."""

    source: str
    requests: tuple[TraceRequest, ...]

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate."""
        last_s = self.requests[-1].arrival_s if self.requests else 0.0
        return (len(self.requests) - 1) / last_s if last_s > 0 else 0.0
