"""What a predictor's process does between two steps of a busy engine, without its sockets.

Each message of the feed is read and a question asked on the state that it leaves, so that no layout and
no baseline serves twice. Every request came with a distribution of its response's length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import msgspec

from block.latency.base import StepLatencyModel
from block.messages import CandidateRequest, FeedMessage, Snapshot
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.simulation.loop import SCHEDULED, advance
from block.types import EngineLimits, EngineState
from exp.simulated_feed import SimulatedFeed
from predictor.forecaster import Forecaster
from predictor.ledger import Ledger, router_id
from predictor.mirror import Mirror

ENGINE = EngineLimits(
    block_size=16,
    total_blocks=2500,
    max_num_seqs=50,
    max_num_batched_tokens=512,
    max_model_len=4096,
    async_scheduling=True,
)
RATE_PER_S = 5.2
MAX_TOKENS = 1024
QUANTILES = ((0.1, 80.0), (0.25, 150.0), (0.5, 300.0), (0.75, 450.0), (0.9, 600.0))
_FULL_AFTER_STEPS = 300


@dataclass(frozen=True)
class BusyPredictor:
    """An engine with 50 running and about 100 waiting requests, and its predictor."""

    model: StepLatencyModel
    steps: int
    scenarios: int

    def answers(self) -> Iterator[None]:
        """Reads one message and answers one question for each item."""
        mirror = Mirror()
        forecaster = Forecaster("bench", self.model, Ledger(3600.0), mirror)
        for number, (message, now_s) in enumerate(self._messages):
            for name in message.names:
                forecaster.ledger.commit(_candidate(name), now_s)
            mirror.apply_bytes(message.data)
            forecaster.notice(now_s)
            forecaster.predict(_candidate(f"new-{number}"), now_s, self.scenarios)
            yield

    @cached_property
    def _messages(self) -> list[tuple[_Message, float]]:
        feed = SimulatedFeed()
        messages: list[tuple[_Message, float]] = []
        for state in self._states():
            message = feed.delta(state) if messages else feed.snapshot(state)
            messages.append((_Message.of(message), state.time_s))
        return messages

    def _states(self) -> Iterator[EngineState]:
        simulation = EngineSimulation(ENGINE, self.model.kernel, _requests(random.Random(0)))
        for step in range(_FULL_AFTER_STEPS + self.steps):
            while advance(simulation.memory.s, simulation.memory.f) != SCHEDULED:
                pass
            if step >= _FULL_AFTER_STEPS:
                yield simulation.state()


@dataclass(frozen=True, slots=True)
class _Message:
    data: bytes
    names: tuple[str, ...]
    """The router's ids of the requests that it introduces."""

    @classmethod
    def of(cls, message: FeedMessage) -> _Message:
        new = message.requests if isinstance(message, Snapshot) else message.added
        return cls(msgspec.msgpack.encode(message), tuple(router_id(facts.id) for facts in new))


def _requests(source: random.Random) -> list[SimulatedRequest]:
    """A hundred at once, then as many as leave."""
    arrival_s, requests = 0.0, []
    for index in range(1000):
        arrival_s += source.expovariate(RATE_PER_S) if index >= 100 else 0.0
        prompt, output = source.randint(20, 500), source.randint(100, 560)
        name = f"chatcmpl-r{index}-{index:08x}"
        requests.append(SimulatedRequest(name, arrival_s, prompt, output, MAX_TOKENS))
    return requests


def _candidate(name: str) -> CandidateRequest:
    return CandidateRequest(name, 200, 300, MAX_TOKENS, output_quantiles=QUANTILES)
