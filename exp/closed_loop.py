"""A fixed number of users of one simulated engine: each asks again as soon as it has been answered."""

from __future__ import annotations

import random
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
class UserLoad:
    """What the users send, from an idle engine on: all of them at once, then each after its answer."""

    users: int
    prompt_tokens: int
    """Of the longest prompts."""
    output_tokens: int
    requests_per_user: int = 10
    shortest: float = 1.0
    """Lengths lie evenly between this share of the longest and the longest."""

    def requests(self, seed: int = 0) -> list[SimulatedRequest]:
        """In the order in which they are sent; the same for the same seed."""
        source = random.Random(seed)

        def drawn(longest: int) -> int:
            return source.randint(max(int(longest * self.shortest), 1), longest)

        return [
            SimulatedRequest(str(place), 0.0, drawn(self.prompt_tokens), drawn(self.output_tokens))
            for place in range(self.users * self.requests_per_user)
        ]


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Means over all requests, each user's first included, as clients of benchmarks take them."""

    ttft_s: float
    tpot_s: float

    @classmethod
    def of(cls, limits: EngineLimits, latency: KernelLatency, load: UserLoad) -> Self:
        """Raises StateError if the requests do not fit the engine."""
        requests = load.requests()
        simulation = EngineSimulation(limits, latency, requests)
        _run(simulation, load.users)
        times = simulation.memory.times
        first = times[:, layout.FIRST_TOKEN]
        spaced = np.array([max(request.output_tokens - 1, 1) for request in requests])
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
