"""The loads that a recording runs through, so that its steps cover what an engine can be asked to do.

First bursts, which fill the batch and tell the engine's capacity for each length mix; then loads at shares
of that capacity, from nearly idle to full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exp.load import Load, burst

BURSTS: Mapping[str, int] = {"sharegpt": 40, "short": 64, "deep": 16, "prompts": 12}
"""Length mix -> requests at once."""
_SHARES = (
    ("sharegpt", 0.5, 0.22),
    ("deep", 0.6, 0.16),
    ("sharegpt", 0.15, 0.14),
    ("short", 0.5, 0.10),
    ("sharegpt", 0.9, 0.22),
    ("prompts", 0.5, 0.08),
    ("short", 0.05, 0.08),
)
"""Length mix, share of its capacity, share of the time."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """How long to record, and which requests."""

    seconds: float
    """Of the loads after the bursts."""
    seed: int = 0

    def bursts(self) -> list[Load]:
        """What to begin with."""
        return [burst(mix, count, self.seed + 100 + i) for i, (mix, count) in enumerate(BURSTS.items())]

    def loads(self, capacity_per_s: Mapping[str, float]) -> list[Load]:
        """What follows; capacities as the bursts have shown them."""
        return [
            self._load(index, mix, share * capacity_per_s[mix], part)
            for index, (mix, share, part) in enumerate(_SHARES)
        ]

    def _load(self, index: int, mix: str, rate_per_s: float, part: float) -> Load:
        return Load(mix, rate_per_s, part * self.seconds, self.seed + 200 + index)
