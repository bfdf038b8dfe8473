"""The next minutes of a fleet, simulated: how many requests would miss their SLO with so many instances.

Engines are simulated as they are; what is not known of them is taken as follows. Requests that an engine has
are alike but for what is left of their responses, which is spread evenly around the mean. Arrivals are
drawn with the recent rate, dispersion and sizes. Each goes to the instance with the fewest tokens
outstanding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from block.simulation.fleet import EngineFleet
from block.simulation.fleet_members import FleetEngine, FleetRequests
from block.simulation.length_rows import length_rows
from block.simulation.memory import Floats
from block.simulation.turnover import FATE_FINISH, FATE_FIRST_TOKEN
from block.types import BatchShape, EngineLoad
from global_scheduler.provisioning.base import ArrivalProcess, EngineModel, InstanceSeen, Observation

_LEAST_SPREAD, _MOST_SPREAD = 0.1, 1.9
_POINT = np.array([0.5])
_MOST_ARRIVALS = 20_000
"""Of one outlook; a faster load is looked at for a shorter time."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What requests must keep, in seconds; infinity for anything."""

    ttft_s: float
    e2e_s: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the fleet is about to meet: the same arrivals for every number of instances."""

    engine: EngineModel
    objective: Objective
    arrival_s: Floats
    """(arrivals,) from now on."""
    sizes: tuple[tuple[int, int], ...]
    """One for each."""

    @classmethod
    def of(
        cls,
        seen: Observation,
        arrivals: ArrivalProcess,
        engine: EngineModel,
        objective: Objective,
        horizon_s: float,
        headroom: float = 0.0,
    ) -> Outlook:
        """Draw the arrivals of ``horizon_s``; the same observation gives the same."""
        random = np.random.default_rng(0)
        rate_per_s = (arrivals.rate_per_s + max(arrivals.growth_per_s, 0.0)) * (1.0 + headroom)
        expected = min(rate_per_s * horizon_s, _MOST_ARRIVALS)
        if expected < 1 or not seen.sizes:
            return cls(engine, objective, np.empty(0), ())
        count = int(expected + 4 * math.sqrt(expected * arrivals.dispersion)) + 8
        gaps_s = random.gamma(1 / arrivals.dispersion, arrivals.dispersion / rate_per_s, count)
        arrival_s = np.cumsum(gaps_s)
        arrival_s = arrival_s[arrival_s <= min(horizon_s, expected / rate_per_s)]
        chosen = random.integers(len(seen.sizes), size=len(arrival_s))
        return cls(engine, objective, arrival_s, tuple(_fitting(seen.sizes[i], engine) for i in chosen))

    def misses(self, instances: Sequence[InstanceSeen], starting_s: Sequence[float], from_s: float) -> float:
        """Share of the arrivals from ``from_s`` on that miss, with these in service and those to come."""
        counted = self.arrival_s >= from_s
        if not counted.any():
            return 0.0
        run = _Run(self, instances, starting_s)
        ttft_s, e2e_s = run.latencies_s()
        missed = ~((ttft_s <= self.objective.ttft_s) & (e2e_s <= self.objective.e2e_s))
        return float(missed[counted].mean())


@dataclass(frozen=True, slots=True)
class _Held:
    """A request that an engine has."""

    engine: int
    running: bool
    size: tuple[int, int]


class _Run:
    """One number of instances through the arrivals of an outlook."""

    def __init__(
        self, outlook: Outlook, instances: Sequence[InstanceSeen], starting_s: Sequence[float]
    ) -> None:
        self._outlook = outlook
        engine = outlook.engine
        held = [_held(place, one.load, engine) for place, one in enumerate(instances)]
        warm_s = [_prefill_s(requests, engine) for requests in held]
        self._now_s = max(warm_s, default=0.0)
        """When the present is; what runs now computes its prompt before that."""
        self._ready_s = [0.0] * len(instances) + [self._now_s + wait_s for wait_s in starting_s]
        self._held = [request for requests in held for request in requests]
        self._begin_s = [self._now_s - each_s for each_s in warm_s]
        self._tokens = [0] * len(self._ready_s)
        self._sizes = (*(one.size for one in self._held), *outlook.sizes)
        member = FleetEngine(engine.limits, engine.latency.kernel)
        self._fleet = EngineFleet([member] * max(len(self._ready_s), 1), _requests(self._sizes))
        self._at = [-1] * len(self._sizes)
        self._heard = 0

    def latencies_s(self) -> tuple[Floats, Floats]:
        """(arrivals,) TTFT and E2E; infinity where there is nobody to serve."""
        first = len(self._held)
        for number, held in enumerate(self._held):
            self._send(number, held.engine, self._begin_s[held.engine] if held.running else self._now_s)
        arrival_s = self._now_s + self._outlook.arrival_s
        for number, time_s in enumerate(arrival_s.tolist(), first):
            self._fleet.run_until(time_s)
            self._hear()
            if (engine := self._least_loaded(time_s)) is not None:
                self._send(number, engine, time_s)
        self._fleet.run_until(math.inf)
        fates = np.nan_to_num(self._fleet.fates[first:], nan=math.inf)
        return fates[:, FATE_FIRST_TOKEN] - arrival_s, fates[:, FATE_FINISH] - arrival_s

    def _least_loaded(self, time_s: float) -> int | None:
        ready = [index for index, ready_s in enumerate(self._ready_s) if ready_s <= time_s]
        return min(ready, key=self._tokens.__getitem__, default=None)

    def _send(self, number: int, engine: int, time_s: float) -> None:
        self._fleet.send(number, engine, time_s)
        self._at[number] = engine
        self._tokens[engine] += sum(self._sizes[number])

    def _hear(self) -> None:
        done = self._fleet.done
        for place in range(self._heard + 1, int(done[0]) + 1):
            number = int(done[place])
            self._tokens[self._at[number]] -= sum(self._sizes[number])
        self._heard = int(done[0])


def _requests(sizes: Sequence[tuple[int, int]]) -> FleetRequests:
    prompt, output = np.array(sizes, np.int64).reshape(-1, 2).T
    return FleetRequests(
        prompt_tokens=prompt,
        output_tokens=output,
        max_tokens=output,
        lengths=length_rows(_POINT, output[:, None].astype(np.float64)),
        priority=np.zeros(len(output), np.int64),
        ids=[str(number) for number in range(len(output))],
    )


def _held(engine: int, load: EngineLoad, model: EngineModel) -> list[_Held]:
    """What the counters of one engine tell of its requests."""
    waiting = load.waiting + load.committed
    everybody = load.running + waiting
    if not everybody:
        return []
    left = max(load.unprocessed_tokens - load.waiting_prompt_tokens, everybody) / everybody
    used = (load.total_blocks - load.free_blocks) * model.limits.block_size
    context = used // max(load.running, 1)
    shares = np.linspace(_LEAST_SPREAD, _MOST_SPREAD, load.running) if load.running > 1 else [1.0]
    sizes = [(int(context), round(float(share) * left)) for share in shares[: load.running]]
    coming = (load.waiting_prompt_tokens // max(waiting, 1), round(left))
    return [
        *(_Held(engine, True, _fitting(size, model)) for size in sizes),
        *(_Held(engine, False, _fitting(coming, model)) for _ in range(waiting)),
    ]


def _fitting(size: tuple[int, int], model: EngineModel) -> tuple[int, int]:
    """At least a token each, and no more than an engine can ever hold."""
    limits = model.limits
    room = min(limits.max_model_len, (limits.total_blocks - 1) * limits.block_size)
    prompt = min(max(size[0], 1), room - 1)
    return prompt, min(max(size[1], 1), room - prompt)


def _prefill_s(held: Sequence[_Held], model: EngineModel) -> float:
    """About how long an engine takes to compute what its running requests have in memory."""
    tokens = sum(one.size[0] for one in held if one.running)
    chunk = model.limits.max_num_batched_tokens
    if not tokens:
        return 0.0
    return math.ceil(tokens / chunk) * model.latency.seconds(BatchShape.of([(chunk, chunk)]))
