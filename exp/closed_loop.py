"""A fixed number of users of one simulated engine: each asks again as soon as it has been answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.loop import PROCESSED, STUCK, advance
from block.types import EngineLimits


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Means over all requests but each user's first, which all come at once."""

    ttft_s: float
    tpot_s: float

    @classmethod
    def of(
        cls,
        limits: EngineLimits,
        latency: KernelLatency,
        users: int,
        tokens: tuple[int, int],
        rounds: int = 3,
    ) -> Self:
        """``tokens`` of every prompt and response. Raises StateError if they do not fit the engine."""
        prompt_tokens, output_tokens = tokens
        requests = [
            SimulatedRequest(str(place), 0.0, prompt_tokens, output_tokens) for place in range(users * rounds)
        ]
        simulation = EngineSimulation(limits, latency, requests)
        _run(simulation, users)
        times = simulation.memory.times[users:]
        first = times[:, layout.FIRST_TOKEN]
        spaced = max(output_tokens - 1, 1)
        return cls(
            float(np.mean(first - times[:, layout.ARRIVAL])),
            float(np.mean((times[:, layout.FINISH] - first) / spaced)),
        )


def _run(simulation: EngineSimulation, users: int) -> None:
    """Requests are announced to the engine as earlier ones end."""
    s, f = simulation.memory.s, simulation.memory.f
    arrivals, last = simulation.memory.times[:, layout.ARRIVAL], int(s[layout.LAST_ARRIVAL])
    announced = users
    s[layout.LAST_ARRIVAL] = s[layout.NEXT_ARRIVAL] + users
    while (outcome := advance(s, f)) > STUCK:
        if outcome != PROCESSED:
            continue
        more = min(simulation.finished_count + users, len(arrivals)) - announced
        if more > 0:
            arrivals[announced : announced + more] = f[layout.NOW]
            announced += more
            s[layout.LAST_ARRIVAL] += more
    if outcome == STUCK or s[layout.LAST_ARRIVAL] != last:
        raise StateError("closed loop: requests are left that do not fit into the engine")
