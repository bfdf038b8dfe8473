"""The loads that a recording runs through, so that its steps cover what an engine can be asked to do.

In rounds of the same kind: bursts, which fill the batch and tell the engine's capacity for each length mix,
then loads at shares of that capacity, from nearly idle to full. A machine has slow and fast minutes; with
several rounds these meet every kind of batch alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exp.load import Load, burst

BURSTS: Mapping[str, float] = {"sharegpt": 1.5, "short": 2.0, "deep": 0.625, "prompts": 0.375}
"""Length mix -> requests at once, for each one that a batch has room for."""
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
_SEEDS_PER_ROUND = 100


@dataclass(frozen=True, slots=True)
class Sweep:
    """How long to record, and which requests."""

    seconds: float
    """Of the loads after the bursts, all rounds together."""
    seed: int = 0
    rounds: int = 3
    max_num_seqs: int = 16
    """The engine's: bursts are as large as they must be to fill its batch."""

    def bursts(self, turn: int) -> list[Load]:
        """What a round begins with; rounds count from 0."""
        first = self._first_seed(turn)
        counts = {mix: max(2, round(share * self.max_num_seqs)) for mix, share in BURSTS.items()}
        return [burst(mix, count, first + index) for index, (mix, count) in enumerate(counts.items())]

    def loads(self, turn: int, capacity_per_s: Mapping[str, float]) -> list[Load]:
        """What follows; capacities as the first bursts have shown them."""
        first, seconds = self._first_seed(turn) + len(BURSTS), self.seconds / self.rounds
        return [
            Load(mix, share * capacity_per_s[mix], part * seconds, first + index)
            for index, (mix, share, part) in enumerate(_SHARES)
        ]

    def _first_seed(self, turn: int) -> int:
        return self.seed + _SEEDS_PER_ROUND * (turn + 1)
