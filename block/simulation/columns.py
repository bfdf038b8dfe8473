"""An ``EngineState`` as arrays: what the simulation is laid out from, and what a mirror can fill in bulk.

One column per number of a request, running requests first, then waiting ones. Knows nothing of how the
simulation arranges its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from block.simulation.memory import Floats, Ints
from block.types import EngineLimits, EngineState, InFlightStep, RequestState, RequestStatus, StepRecord

FIELDS: Final = (
    "computed_tokens",
    "generated_tokens",
    "in_flight_tokens",
    "output_placeholders",
    "newest_tokens",
    "prompt_tokens",
    "max_tokens",
    "priority",
    "cached_tokens",
    "status",
)
"""Names in ``RequestState`` of the rows of ``EngineColumns.numbers``."""

COMPUTED, GENERATED, IN_FLIGHT, PLACEHOLDERS, NEWEST, PROMPT, MAX_TOKENS, PRIORITY, CACHED, STATUS = range(10)


@dataclass(frozen=True, slots=True, eq=False)
class EngineColumns:
    """The same as an ``EngineState`` without its recent steps."""

    engine_id: str
    step: int
    time_s: float
    limits: EngineLimits
    free_blocks: int
    preemptions: int
    in_flight: tuple[InFlightStep, ...]
    ids: tuple[str, ...]
    """Of the running requests, then of the waiting ones, each in the engine's order."""
    running: int
    """How many of them are running."""
    numbers: Ints
    """(len(FIELDS), requests), contiguous by row."""
    arrival_s: Floats
    """(requests,)"""
    longest: int = 0
    """Tokens of the longest request that can come to its end, as ``soundness`` finds; 0: not looked for."""

    @classmethod
    def of(cls, state: EngineState) -> Self:
        """The columns of a state."""
        requests = (*state.running, *state.waiting)
        numbers = [[getattr(request, name) for request in requests] for name in FIELDS]
        return cls(
            engine_id=state.engine_id,
            step=state.step,
            time_s=state.time_s,
            limits=state.limits,
            free_blocks=state.free_blocks,
            preemptions=state.preemptions,
            in_flight=state.in_flight,
            ids=tuple(request.id for request in requests),
            running=len(state.running),
            numbers=np.array(numbers, np.int64),
            arrival_s=np.array([request.arrival_s for request in requests], np.float64),
        )

    @property
    def waiting(self) -> int:
        """How many requests are waiting, preempted ones included."""
        return len(self.ids) - self.running

    def request(self, row: int) -> RequestState:
        """One request, the running ones first."""
        numbers = dict(zip(FIELDS, self.numbers[:, row].tolist(), strict=True))
        status = RequestStatus(numbers.pop("status"))
        return RequestState(id=self.ids[row], status=status, arrival_s=float(self.arrival_s[row]), **numbers)

    def state(self, recent_steps: tuple[StepRecord, ...] = ()) -> EngineState:
        """As values."""
        requests = [self.request(row) for row in range(len(self.ids))]
        return EngineState(
            engine_id=self.engine_id,
            step=self.step,
            time_s=self.time_s,
            limits=self.limits,
            running=tuple(requests[: self.running]),
            waiting=tuple(requests[self.running :]),
            free_blocks=self.free_blocks,
            preemptions=self.preemptions,
            in_flight=self.in_flight,
            recent_steps=recent_steps,
        )
