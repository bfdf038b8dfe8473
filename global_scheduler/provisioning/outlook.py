"""The next minutes of a fleet, simulated: how many requests would miss their SLO with so many instances.

Engines are simulated as they are; what is not known of them is taken as follows. Requests that an engine has
are alike but for what is left of their responses, which is spread evenly around the mean. Arrivals are
drawn with the recent rate, dispersion and sizes. Each goes where the most blocks are free per request, as by
the policy ``llumnix``, the best of those that need no prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from block.simulation.fleet import EngineFleet
from block.simulation.fleet_members import FleetEngine, FleetRequests
from block.simulation.length_rows import length_rows
from block.simulation.memory import Floats, Ints
from block.simulation.turnover import FATE_FINISH, FATE_FIRST_TOKEN
from block.types import BatchShape, EngineLoad
from global_scheduler.provisioning.base import ArrivalProcess, EngineModel, InstanceSeen, Observation

_LEAST_SPREAD, _MOST_SPREAD = 0.1, 1.9
_POINT = np.array([0.5])
_MOST_ARRIVALS = 20_000
"""Of one outlook; a faster load is looked at for a shorter time,"""
_FEWEST_JUDGED = 2_000
"""but for so long that as many come in the part of it that is judged."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What requests must keep, in seconds; infinity for anything."""

    ttft_s: float
    e2e_s: float


@dataclass(frozen=True, slots=True)
class Misses:
    """What becomes of the requests that are judged."""

    share: float
    """Of those that miss the objective."""
    late_s: float
    """By how much they do on the mean, of all."""


NONE_MISS = Misses(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far an outlook goes, and from when on somebody looks at it."""

    length_s: float
    judged_from_s: float

    def at(self, rate_per_s: float) -> float:
        """Seconds to simulate of arrivals that come so fast."""
        long_s = max(_MOST_ARRIVALS / rate_per_s, self.judged_from_s + _FEWEST_JUDGED / rate_per_s)
        return min(self.length_s, long_s)


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
        horizon: Horizon,
        headroom: float = 0.0,
    ) -> Outlook:
        """Draw the arrivals up to the horizon; the same observation gives the same."""
        random = np.random.default_rng(0)
        rate_per_s = (arrivals.rate_per_s + max(arrivals.growth_per_s, 0.0)) * (1.0 + headroom)
        if rate_per_s * horizon.length_s < 1 or not seen.sizes:
            return cls(engine, objective, np.empty(0), ())
        horizon_s = horizon.at(rate_per_s)
        # As many as are expected, and each size as often as any other: chance must not add load.
        count = round(rate_per_s * horizon_s)
        gaps_s = random.gamma(1 / arrivals.dispersion, size=count + 1)
        arrival_s = np.cumsum(gaps_s)[:-1] * (horizon_s / gaps_s.sum())
        chosen = _evenly(len(seen.sizes), count, random)
        return cls(engine, objective, arrival_s, tuple(_fitting(seen.sizes[i], engine) for i in chosen))

    def misses(self, instances: Sequence[InstanceSeen], starting_s: Sequence[float], from_s: float) -> Misses:
        """Of the arrivals from ``from_s`` on, with these in service and those to come."""
        judged = self.arrival_s >= from_s
        if not judged.any():
            return NONE_MISS
        ttft_s, e2e_s = _Run(self, instances, starting_s).latencies_s()
        bounds = ((ttft_s, self.objective.ttft_s), (e2e_s, self.objective.e2e_s))
        late_s = np.max([taken_s - most_s for taken_s, most_s in bounds if most_s < math.inf], axis=0)[judged]
        return Misses(float((late_s > 0).mean()), float(np.maximum(late_s, 0.0).mean()))


def _evenly(kinds: int, count: int, random: np.random.Generator) -> Ints:
    """(count,) numbers below ``kinds`` in random order, each as often as any other, give or take one."""
    rounds = [random.permutation(kinds) for _ in range(math.ceil(count / kinds))]
    return np.concatenate(rounds)[:count]


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
        self._sizes = (*(one.size for one in self._held), *outlook.sizes)
        member = FleetEngine(engine.limits, engine.latency.kernel)
        self._fleet = EngineFleet([member] * max(len(self._ready_s), 1), _requests(self._sizes))

    def latencies_s(self) -> tuple[Floats, Floats]:
        """(arrivals,) TTFT and E2E; infinity where there is nobody to serve."""
        first = len(self._held)
        for number, held in enumerate(self._held):
            begin_s = self._begin_s[held.engine] if held.running else self._now_s
            self._fleet.send(number, held.engine, begin_s)
        arrival_s = self._now_s + self._outlook.arrival_s
        for number, time_s in enumerate(arrival_s.tolist(), first):
            self._fleet.run_until(time_s)
            if (engine := self._freest(time_s)) is not None:
                self._fleet.send(number, engine, time_s)
        self._fleet.run_until(math.inf)
        fates = np.nan_to_num(self._fleet.fates[first:], nan=math.inf)
        return fates[:, FATE_FIRST_TOKEN] - arrival_s, fates[:, FATE_FINISH] - arrival_s

    def _freest(self, time_s: float) -> int | None:
        """The most blocks free, those of waiting prompts taken, per request."""
        ready = [index for index, ready_s in enumerate(self._ready_s) if ready_s <= time_s]
        if not ready:
            return None
        loads = self._fleet.loads(np.array(ready, np.int64), time_s)
        running, waiting, committed, free, _, waiting_tokens, _ = loads.T
        room = free - waiting_tokens / self._outlook.engine.limits.block_size
        return ready[int(np.argmax(room / np.maximum(running + waiting + committed, 1)))]


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
