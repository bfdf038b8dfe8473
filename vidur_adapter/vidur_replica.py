"""One replica of Vidur in virtual time: its Sarathi scheduler, our step times.

Vidur's own predictor of step times is left out: its forests take minutes to train and their place is taken
by a ``KernelLatency``, so that what differs is scheduling alone. Scheduling is synchronous, there is no
prefix cache, and requests that were preempted come back in order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation.engine import Outcome, SimulatedRequest
from block.types import BatchShape, EngineLimits, EngineState, RequestState, RequestStatus
from vidur_adapter.vidur_checkout import VidurCheckout


@dataclass
class VidurReplica:
    """Empty at first; ``now_s`` is its clock."""

    checkout: VidurCheckout
    limits: EngineLimits
    step_seconds: Callable[[Any], float]
    """What one of Vidur's batches takes; see ``by_shape``."""
    now_s: float = 0.0
    steps: int = 0

    def __post_init__(self) -> None:
        self.scheduler: Any = self.checkout.scheduler(self.limits)

    def add(self, request: SimulatedRequest) -> Any:
        """Queue a request; returns Vidur's object of it."""
        made = self.checkout.request(request.arrival_s, request.prompt_tokens, request.output_tokens)
        self.scheduler.add_request(made)
        return made

    def hold(self, state: EngineState, output_tokens: Sequence[int]) -> list[Any]:
        """Take over an engine's requests, whose responses come to be so long; running ones come first.

        Vidur knows no step in flight: those of the state are taken to start now.
        """
        held = zip((*state.running, *state.waiting), output_tokens, strict=True)
        return [self._hold(request, tokens) for request, tokens in held]

    def step(self) -> bool:
        """Schedule a batch and let its time pass; False if nothing can be scheduled."""
        batches = self.scheduler.on_schedule()
        if not batches:
            return False
        (batch,) = batches
        batch.on_schedule(self.now_s)
        self.now_s += self.step_seconds(batch)
        batch.on_batch_end(self.now_s)
        self.scheduler.on_batch_end(batch)
        self.steps += 1
        return True

    def run_until(self, wanted: Sequence[Any]) -> bool:
        """Step until these have ended; False if some can never run."""
        while not all(request.completed for request in wanted):
            if not self.step():
                return False
        return True

    def replay(self, arrivals: Sequence[SimulatedRequest]) -> list[Outcome]:
        """Meet ``arrivals`` as they come, to the end; outcomes in the order given."""
        made: dict[str, Any] = {}
        coming = sorted(arrivals, key=lambda request: request.arrival_s)
        place = 0
        while len(made) < len(coming) or not self.scheduler.is_empty():
            while place < len(coming) and coming[place].arrival_s <= self.now_s:
                made[coming[place].id] = self.add(coming[place])
                place += 1
            if self.step():
                continue
            if place == len(coming):
                raise StateError("Vidur: requests are left that it can never schedule; give it more blocks")
            self.now_s = max(self.now_s, coming[place].arrival_s)
        return [_outcome(request, made[request.id]) for request in arrivals]

    def _hold(self, request: RequestState, output_tokens: int) -> Any:
        done = request.computed_tokens - request.in_flight_tokens
        decodes = request.generated_tokens > 0 and done >= request.total_tokens - 1
        left = max(output_tokens - request.generated_tokens, 1)
        if decodes:
            tokens = (request.prompt_tokens, request.generated_tokens + left, request.total_tokens)
        else:  # what was generated before a preemption is computed again, as a prompt
            tokens = (request.total_tokens, left, done)
        made = self.checkout.request(request.arrival_s, *tokens)
        if request.status != RequestStatus.RUNNING:
            self.scheduler.add_request(made)
            return made
        made._is_prefill_complete, made._scheduled = decodes, True
        self.scheduler.allocate(made.id, -(-request.total_tokens // self.limits.block_size))
        self.scheduler._preempted_requests.append(made)
        return made


def by_shape(latency: KernelLatency) -> Callable[[Any], float]:
    """Step times as the simulation has them."""
    return lambda batch: latency.seconds(_shape(batch))


def _shape(batch: Any) -> BatchShape:
    """Vidur counts a token as processed when it is sampled, so a decode's context is what it counts."""
    return BatchShape.of(
        (tokens, request.num_processed_tokens + (0 if request.is_prefill_complete else tokens))
        for request, tokens in zip(batch.requests, batch.num_tokens, strict=True)
    )


def _outcome(asked: SimulatedRequest, made: Any) -> Outcome:
    return Outcome(
        id=asked.id,
        first_token_s=made.prefill_completed_at,
        finish_s=made.completed_at,
        generated_tokens=asked.output_tokens,
        preemptions=made.num_restarts,
        hit_tokens=0,
    )
