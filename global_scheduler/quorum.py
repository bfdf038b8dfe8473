"""How many answers a decision waits for."""

from __future__ import annotations

import msgspec


class Quorum(msgspec.Struct, frozen=True):
    """When a decision stops waiting, apart from its deadline."""

    probes: int | None = None
    """Predictors to ask; None leaves it to the prober."""
    answers: int | None = None
    """Enough to decide on; None waits for all."""
    grace_s: float = 0.0
    """How much longer the others have once there are enough."""
    minimum_share: float = 0.0
    """Share of those asked that must answer for the answers to be used at all."""
