"""A layer of experts, of which each token activates a few, spread over devices.

Its profile is one device's: tokens and activated experts to seconds. Tokens are taken to choose experts
evenly and independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from block.latency.least_squares import Floats
from vidur_adapter.operator import Operator, Samples, Timings


@dataclass(frozen=True, slots=True)
class Experts:
    """How many there are, and who computes them."""

    total: int
    per_token: int
    devices: int = 1
    """Over which the experts are spread evenly."""
    engines: int = 1
    """Whose batches meet in this layer; each is taken to be like this one."""

    def activated(self, tokens: Floats) -> Floats:
        """On one device, expected, when so many tokens meet."""
        idle = (1 - self.per_token / self.total) ** tokens
        return np.asarray(self.total / self.devices * (1 - idle))


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """An ``Operator`` by one engine's tokens, from a table of (activated experts, tokens)."""

    table: Operator
    experts: Experts
    name: str = "moe"
    axes: tuple[str, ...] = ("tokens",)

    @property
    def samples(self) -> Samples | None:
        """Of one device."""
        return getattr(self.table, "samples", None)

    def time(self, shapes: Floats) -> Timings:
        """``shapes`` is (shapes, 1): tokens of one engine."""
        together = shapes[:, 0] * self.experts.engines
        own = np.maximum(together / self.experts.devices, 1.0)
        return self.table.time(np.column_stack([self.experts.activated(together), own]))
