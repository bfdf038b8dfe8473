"""Whether a load client kept up with its own load: how late it sent, how late it noticed, how busy it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np

_TICK_S = 0.02
TOLERABLE_S = 0.01
"""Lateness at p99 beyond which the client shapes what it measures."""
_BUSY = 0.9


class OwnPace:
    """Filled in while a load runs."""

    def __init__(self) -> None:
        self.lateness_p99_s = 0.0
        """Of sending."""
        self.lateness_max_s = 0.0
        self.lag_p99_s = 0.0
        """Of noticing what came: how late the event loop's own ticks were."""
        self.cpu_share = 0.0
        """Of one core, by this process."""

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch the event loop for the length of a ``with``."""
        lags_s: list[float] = []
        wall_s, cpu_s = time.monotonic(), time.process_time()
        ticking = asyncio.create_task(_tick(lags_s))
        try:
            yield
        finally:
            ticking.cancel()
            wall_s = time.monotonic() - wall_s
            self.cpu_share = (time.process_time() - cpu_s) / wall_s if wall_s > 0 else 0.0
            self.lag_p99_s = _p99(lags_s)

    def note_lateness(self, lateness_s: Sequence[float]) -> None:
        """How late each request was sent."""
        self.lateness_p99_s = _p99(lateness_s)
        self.lateness_max_s = max(lateness_s, default=0.0)

    @property
    def warning(self) -> str:
        """What is to be said about it; empty if the client kept up."""
        late_s = max(self.lateness_p99_s, self.lag_p99_s)
        if late_s <= TOLERABLE_S and self.cpu_share <= _BUSY:
            return ""
        return (
            f"the client itself was the bottleneck: {self.lateness_p99_s * 1e3:.1f} ms late at p99, its "
            f"event loop {self.lag_p99_s * 1e3:.1f} ms, {self.cpu_share:.0%} of a core busy; lower the "
            "rate, share the load between several clients, or keep other work off this machine"
        )


async def _tick(lags_s: list[float]) -> None:
    while True:
        due_s = time.monotonic() + _TICK_S
        await asyncio.sleep(_TICK_S)
        lags_s.append(max(0.0, time.monotonic() - due_s))


def _p99(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99)) if len(values) else 0.0
