"""Arrivals through the engine simulation with an operator model's own step times, batch by batch.

The simulation evaluates only the tabulated form. Here each batch is costed by the operators in full, chunk
by chunk and context by context, as it is submitted: slower, and what the tabulated form is held against.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from block.errors import StateError
from block.simulation import layout
from block.simulation.engine import EngineSimulation, Outcome
from block.simulation.loop import IDLE, SCHEDULED, STUCK, advance
from vidur_adapter.batch import StepBatch
from vidur_adapter.model import OperatorModel


@dataclass
class Replay:
    """One run; ``operators`` None leaves the simulation's own step times in force."""

    simulation: EngineSimulation
    operators: OperatorModel | None = None
    batches: list[StepBatch] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    """Duration of each batch, in the same order."""
    scheduled_s: dict[str, float] = field(default_factory=dict)
    """When each request was first in a batch that the engine scheduled."""
    covered: list[bool] = field(default_factory=list)
    """Whether the operators' measurements cover the batch."""

    def run(self) -> list[Outcome]:
        """To the end; raises StateError if requests are left that can never run."""
        memory = self.simulation.memory
        while (outcome := advance(memory.s, memory.f)) > STUCK:
            if outcome == SCHEDULED:
                self._cost((self.simulation.step_count - 1) % 2)
        if outcome != IDLE:
            raise StateError("replay: requests are left that never fit into the engine; give it more blocks")
        return self.simulation.outcomes()

    def _cost(self, slot: int) -> None:
        memory = self.simulation.memory
        seats = memory.seats(slot)[:, : memory.batch_facts(slot)[layout.LENGTH]]
        rows = (seats[0] - memory.s[layout.RECORDS]) // layout.RECORD
        self._note_scheduled(rows.tolist())
        computed = memory.requests[rows, layout.COMPUTED]
        batch = StepBatch.of(zip(seats[1].tolist(), computed.tolist(), strict=True))
        if not batch.requests:
            return  # a step that only preempts
        self.batches.append(batch)
        start_s = memory.f[layout.BATCH_START + slot]
        if self.operators is not None:
            timing = self.operators.time([batch])
            self.covered.append(bool(timing.covered[0]))
            memory.f[layout.BATCH_END + slot] = memory.f[layout.GPU_FREE] = start_s + timing.seconds[0]
        self.step_s.append(float(memory.f[layout.BATCH_END + slot] - start_s))

    def _note_scheduled(self, rows: list[int]) -> None:
        now_s = float(self.simulation.memory.f[layout.NOW])
        for row in rows:
            self.scheduled_s.setdefault(self.simulation.requests[row].id, now_s)
