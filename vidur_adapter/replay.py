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


@dataclass(eq=False)
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
    assumed_s: list[float] = field(default_factory=list)
    """Of its duration: what no measurement stands behind."""

    def run(self) -> list[Outcome]:
        """To the end; raises StateError if requests are left that can never run."""
        while (batch := self.next_batch()) is not None:
            self.settle(batch)
        return self.simulation.outcomes()

    def next_batch(self) -> StepBatch | None:
        """Go on until the engine submits a batch; None once nothing is left to do."""
        memory = self.simulation.memory
        while (outcome := advance(memory.s, memory.f)) > STUCK:
            if outcome == SCHEDULED and (batch := self._batch()).requests:
                return batch  # one without requests only preempts
        if outcome != IDLE:
            raise StateError("replay: requests are left that never fit into the engine; give it more blocks")
        return None

    @property
    def start_s(self) -> float:
        """Of the newest batch."""
        return float(self.simulation.memory.f[layout.BATCH_START + self._slot])

    def settle(self, batch: StepBatch, beside: float | None = None) -> None:
        """Say how long the newest batch takes; ``beside`` as ``OperatorModel.time`` has it."""
        if self.operators is not None:
            timing = self.operators.time([batch], beside)
            self.covered.append(bool(timing.covered[0]))
            self.assumed_s.append(float(timing.assumed_s[0]))
            self.last_until(self.start_s, self.start_s + float(timing.seconds[0]))
        self.batches.append(batch)
        self.step_s.append(float(self.simulation.memory.f[layout.BATCH_END + self._slot]) - self.start_s)

    def last_until(self, start_s: float, end_s: float) -> None:
        """Set when the newest batch starts and ends."""
        memory, slot = self.simulation.memory, self._slot
        memory.f[layout.BATCH_START + slot] = start_s
        memory.f[layout.BATCH_END + slot] = memory.f[layout.GPU_FREE] = end_s

    def not_before(self, start_s: float) -> None:
        """The newest batch, whose duration is not known yet, starts no earlier."""
        memory, slot = self.simulation.memory, self._slot
        memory.f[layout.BATCH_START + slot] = max(start_s, memory.f[layout.BATCH_START + slot])

    @property
    def _slot(self) -> int:
        return (self.simulation.step_count - 1) % 2

    def _batch(self) -> StepBatch:
        memory, slot = self.simulation.memory, self._slot
        seats = memory.seats(slot)[:, : memory.batch_facts(slot)[layout.LENGTH]]
        rows = (seats[0] - memory.s[layout.RECORDS]) // layout.RECORD
        self._note_scheduled(rows.tolist())
        computed = memory.requests[rows, layout.COMPUTED]
        return StepBatch.of(zip(seats[1].tolist(), computed.tolist(), strict=True))

    def _note_scheduled(self, rows: list[int]) -> None:
        now_s = float(self.simulation.memory.f[layout.NOW])
        for row in rows:
            self.scheduled_s.setdefault(self.simulation.requests[row].id, now_s)
