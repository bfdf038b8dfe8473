"""A simulation run to its end, compiled, by the quickest way that the engine's settings allow."""

from __future__ import annotations

from block.simulation.compiled import compiled
from block.simulation.glide import glide
from block.simulation.layout import CACHING, LAST_ABORT, NEXT_ABORT
from block.simulation.leap import leap
from block.simulation.loop import STUCK, advance
from block.simulation.memory import Floats, Ints


@compiled
def run(s: Ints, f: Floats) -> int:
    """Advance until every request has finished; returns IDLE, or STUCK if some never can."""
    while True:
        # Gliding counts blocks and expects nobody to leave; leaping follows each block.
        if s[CACHING] == 0 and s[NEXT_ABORT] == s[LAST_ABORT]:
            glide(s, f)
        else:
            leap(s, f)
        outcome = advance(s, f)
        if outcome <= STUCK:
            return outcome


@compiled
def run_stepwise(s: Ints, f: Floats) -> int:
    """As ``run``, step by step: what gliding and leaping must equal."""
    while True:
        outcome = advance(s, f)
        if outcome <= STUCK:
            return outcome
