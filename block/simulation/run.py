"""A simulation run to its end, compiled, by the quickest way that the engine's settings allow."""

from __future__ import annotations

from block.simulation.compiled import compiled
from block.simulation.glide import glide
from block.simulation.layout import AWAITED, CACHING, LAST_ABORT, MOST_STEPS, NEXT_ABORT, STEPS
from block.simulation.leap import leap
from block.simulation.loop import IDLE, STUCK, advance
from block.simulation.memory import Floats, Ints

TOO_LONG = -1
"""Outcome of a run that was given up: it came to ``MOST_STEPS``."""


@compiled
def run(s: Ints, f: Floats) -> int:
    """Advance until every awaited request has finished; returns IDLE, STUCK if some never can, TOO_LONG."""
    while s[AWAITED] > 0:
        if s[STEPS] >= s[MOST_STEPS]:
            return TOO_LONG
        # Gliding counts blocks and expects nobody to leave; leaping follows each block.
        if s[CACHING] == 0 and s[NEXT_ABORT] == s[LAST_ABORT]:
            glide(s, f)
        else:
            leap(s, f)
        if s[AWAITED] <= 0:
            break
        outcome = advance(s, f)
        if outcome <= STUCK:
            return outcome
    return IDLE


@compiled
def run_stepwise(s: Ints, f: Floats) -> int:
    """As ``run``, step by step: what gliding and leaping must equal."""
    while s[AWAITED] > 0:
        outcome = advance(s, f)
        if outcome <= STUCK:
            return outcome
    return IDLE
