"""Engine states that what-ifs are timed on: so many running, so many waiting, so much left to do."""

from __future__ import annotations

import random
from dataclasses import dataclass

from block.types import (
    Arrival,
    BatchShape,
    EngineLimits,
    EngineState,
    InFlightStep,
    RequestState,
    RequestStatus,
)

BLOCK_SIZE = 16
PROMPT_TOKENS = 250
WAITING_OUTPUT_TOKENS = 300
NEWCOMER = Arrival("newcomer", 0.0, prompt_tokens=500, output_tokens=300, max_tokens=300)


@dataclass(frozen=True, slots=True)
class BenchState:
    """How full the engine is."""

    running: int
    waiting: int
    tokens_left: int
    """Response tokens that each running request still gets."""
    spread: float = 0.0
    """Share by which the tokens left differ, up and down."""
    seed: int = 0

    def build(self) -> EngineState:
        """An engine whose batch is full, a step in flight, with memory for all that it holds."""
        source = random.Random(self.seed)
        running = tuple(self._running(index, source) for index in range(self.running))
        waiting = tuple(self._waiting(index) for index in range(self.waiting))
        limits = self._limits()
        held = sum(-(-request.computed_tokens // BLOCK_SIZE) for request in running)
        shape = BatchShape.of((1, request.computed_tokens) for request in running)
        return EngineState(
            engine_id="bench",
            step=1000,
            time_s=0.0,
            limits=limits,
            running=running,
            waiting=waiting,
            free_blocks=limits.total_blocks - held,
            in_flight=(InFlightStep(999, -0.01, shape),) if running else (),
        )

    def _limits(self) -> EngineLimits:
        # Every seat may hold its prompt, what it has and what is left; the waiting come after.
        tokens = 2 * (PROMPT_TOKENS + 2 * self.tokens_left + WAITING_OUTPUT_TOKENS)
        return EngineLimits(
            block_size=BLOCK_SIZE,
            total_blocks=max(1, self.running) * tokens // BLOCK_SIZE,
            max_num_seqs=max(1, self.running),
            max_num_batched_tokens=512,
            max_model_len=4096,
            async_scheduling=True,
        )

    def _running(self, index: int, source: random.Random) -> RequestState:
        generated = source.randint(1, 200)
        left = max(2, round(self.tokens_left * (1 + self.spread * source.uniform(-1, 1))))
        # With asynchronous scheduling the next token is already being computed.
        return RequestState(
            id=f"running-{index}",
            status=RequestStatus.RUNNING,
            arrival_s=-10.0,
            prompt_tokens=PROMPT_TOKENS,
            max_tokens=generated + left,
            computed_tokens=PROMPT_TOKENS + generated,
            generated_tokens=generated,
            in_flight_tokens=1,
            newest_tokens=1,
            output_placeholders=1,
        )

    def _waiting(self, index: int) -> RequestState:
        return RequestState(
            id=f"waiting-{index}",
            status=RequestStatus.WAITING,
            arrival_s=-1.0 + index * 1e-3,
            prompt_tokens=PROMPT_TOKENS,
            max_tokens=WAITING_OUTPUT_TOKENS,
        )
