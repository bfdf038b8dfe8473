"""vLLM's engine loop in virtual time, compiled: arrivals, batches in flight, the clock.

Follows ``EngineCore.step`` and ``step_with_batch_queue`` (0.32). A batch starts when it is submitted or
when the one before it has ended, whichever is later, and lasts what the latency curve says.
"""

from __future__ import annotations

from block.simulation.arrays import (
    ARRIVAL,
    ASYNC,
    BATCHES,
    CONTEXT,
    GPU_FREE,
    LENGTH,
    NEXT_ARRIVAL,
    NOW,
    OUTSIDE_STEPS,
    PRODUCTS,
    STEP_PREEMPTED,
    STEPS,
    TOKENS,
    UNFINISHED,
    Arrays,
)
from block.simulation.compiled import compiled
from block.simulation.kernel import enqueue, process, schedule

# What ``advance`` did.
IDLE = 0  # nothing left to do, now or later
STUCK = 1  # requests are left, but none can ever be scheduled
SCHEDULED = 2  # a batch was submitted
PROCESSED = 3  # a batch's output was applied


@compiled
def step_seconds(a: Arrays, slot: int) -> float:
    """Duration of batch ``slot``: what ``KernelLatency.seconds`` says of its shape."""
    tokens = float(a.batch_facts[TOKENS, slot])
    upper = 1
    while upper < a.knots.size - 1 and tokens >= a.knots[upper]:
        upper += 1
    slope = (a.seconds[upper] - a.seconds[upper - 1]) / (a.knots[upper] - a.knots[upper - 1])
    return (
        a.seconds[upper - 1]
        + slope * (tokens - a.knots[upper - 1])
        + a.slopes[0] * a.batch_facts[CONTEXT, slot]
        + a.slopes[1] * a.batch_facts[PRODUCTS, slot]
        + a.slopes[2] * a.batch_facts[LENGTH, slot]
    )


@compiled
def advance(a: Arrays) -> int:
    """Do the engine loop's next action and say which it was.

    Batches are numbered by the steps scheduled so far; batch ``k`` uses slot ``k % 2``.
    """
    while True:
        _let_in(a)
        if a.counters[UNFINISHED] > 0 and a.counters[BATCHES] <= a.limits[ASYNC]:
            slot = a.counters[STEPS] % 2
            if schedule(a, slot) > 0:
                _submit(a, slot)
                return SCHEDULED
            a.counters[STEPS] -= 1  # an empty batch takes no time and is not counted
            if a.counters[STEP_PREEMPTED] > 0:
                continue
        if a.counters[BATCHES] > 0:
            slot = (a.counters[STEPS] - a.counters[BATCHES]) % 2
            a.clock[NOW] = max(a.clock[NOW], a.batch_ends[slot])
            a.counters[BATCHES] -= 1
            process(a, slot, a.clock[NOW])
            return PROCESSED
        if a.counters[NEXT_ARRIVAL] == a.arrivals.size:
            return STUCK if a.counters[UNFINISHED] > 0 else IDLE
        a.clock[NOW] = a.times[ARRIVAL, a.arrivals[a.counters[NEXT_ARRIVAL]]]


@compiled
def run(a: Arrays) -> int:
    """Advance until every request has finished; returns IDLE, or STUCK if some never can."""
    while True:
        outcome = advance(a)
        if outcome <= STUCK:
            return outcome


@compiled
def _let_in(a: Arrays) -> None:
    while a.counters[NEXT_ARRIVAL] < a.arrivals.size:
        r = a.arrivals[a.counters[NEXT_ARRIVAL]]
        if a.times[ARRIVAL, r] > a.clock[NOW]:
            break
        enqueue(a, r)
        a.counters[NEXT_ARRIVAL] += 1


@compiled
def _submit(a: Arrays, slot: int) -> None:
    start = max(a.clock[NOW], a.clock[GPU_FREE])
    end = start + step_seconds(a, slot)
    a.batch_starts[slot] = start
    a.batch_ends[slot] = end
    a.clock[GPU_FREE] = end
    a.counters[BATCHES] += 1
    tokens = a.batch_facts[TOKENS, slot]
    if tokens < a.knots[0] or tokens > a.knots[a.knots.size - 1]:
        a.counters[OUTSIDE_STEPS] += 1
