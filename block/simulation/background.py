"""Requests that nobody has sent yet: what an engine expects to come while the ones it has are served.

A what-if without them is right about an engine that gets nothing more, and the busier the engine, the more
of a request's time goes to the prompts and tokens of later ones. They delay; they are not asked about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from block.errors import StateError
from block.simulation.expectation import expected_as_of_s
from block.simulation.memory import Floats, Ints, Memory
from block.simulation.placing import expect
from block.types import EngineLimits


@dataclass(frozen=True, slots=True)
class Background:
    """Expected arrivals of one engine, in order."""

    arrival_s: Floats
    """(requests,) seconds from now on, whenever that is asked; never falling."""
    prompt_tokens: Ints
    """(requests,)"""
    output_tokens: Ints
    """(requests,)"""
    grid_s: float = 0.0
    """A what-if may move them all by up to half of this, so that questions at about the same time share a
    baseline; at most the first arrival.
    """

    def __post_init__(self) -> None:
        """Raises StateError for columns that do not fit each other or cannot be."""
        if not len(self.arrival_s) == len(self.prompt_tokens) == len(self.output_tokens):
            raise StateError("background: arrival_s, prompt_tokens and output_tokens differ in length")
        if len(self.arrival_s) == 0:
            return
        times_s = self.arrival_s
        if not np.isfinite(times_s).all() or times_s[0] < 0 or (times_s[1:] < times_s[:-1]).any():
            raise StateError("background.arrival_s: must be seconds from 0 on that never fall")
        if not 0 <= self.grid_s <= times_s[0]:
            raise StateError(f"background.grid_s = {self.grid_s}: must be within 0..{times_s[0]}")
        if self.prompt_tokens.min() < 1 or self.output_tokens.min() < 1:
            raise StateError("background: prompt_tokens and output_tokens must be at least 1")

    @classmethod
    def none(cls) -> Self:
        """Nothing more is expected."""
        return cls(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))

    def as_of_s(self, now_s: float) -> float:
        """When a question asked at ``now_s`` takes them to count from."""
        return float(expected_as_of_s(now_s, self.grid_s))

    def __len__(self) -> int:
        return len(self.arrival_s)

    def announce(self, memory: Memory, limits: EngineLimits) -> None:
        """Write the requests into the last records of ``memory``, behind the arrivals it has.

        Lengths are cut to what an engine of these limits takes.
        """
        if len(self) == 0:
            return
        most = min(limits.max_model_len, limits.total_blocks * limits.block_size)
        # Arrays in another order would have the compiled function compiled anew.
        prompts, outputs = map(np.ascontiguousarray, (self.prompt_tokens, self.output_tokens))
        expect(memory.s, memory.f, np.ascontiguousarray(self.arrival_s), prompts, outputs, most)
