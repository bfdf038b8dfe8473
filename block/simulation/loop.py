"""vLLM's engine loop in virtual time, compiled: arrivals, batches in flight, the clock.

Follows ``EngineCore.step`` and ``step_with_batch_queue`` (0.32). A batch starts when it is submitted or
when the one before it has ended, whichever is later, and lasts what the latency curve says.
"""

from __future__ import annotations

from block.simulation.compiled import compiled
from block.simulation.kernel import abort, enqueue, process, schedule
from block.simulation.layout import (
    ABORT,
    ARRIVAL,
    ASYNC,
    BATCH,
    BATCH_END,
    BATCH_FACTS,
    BATCH_START,
    BATCHES,
    CONTEXT,
    CURVE_SECONDS,
    CURVE_TOKENS,
    EMPTY_STEP,
    GPU_FREE,
    KNOTS,
    LAST_ABORT,
    LAST_ARRIVAL,
    LENGTH,
    NEXT_ABORT,
    NEXT_ARRIVAL,
    NOW,
    OUTSIDE_STEPS,
    PER_CONTEXT,
    PER_PRODUCT,
    PER_REQUEST,
    PRODUCTS,
    STEP_PREEMPTED,
    STEPS,
    TIMES,
    TOKENS,
    UNFINISHED,
)
from block.simulation.memory import Floats, Ints

# What ``advance`` did.
IDLE = 0  # nothing left to do, now or later
STUCK = 1  # requests are left, but none can ever be scheduled
SCHEDULED = 2  # a batch was submitted
PROCESSED = 3  # a batch's output was applied


@compiled
def advance(s: Ints, f: Floats) -> int:
    """Do the engine loop's next action and say which it was.

    Batches are numbered by the steps scheduled so far; batch ``k`` uses slot ``k % 2``.
    """
    while True:
        let_in(s, f)
        if s[UNFINISHED] > 0 and s[BATCHES] <= s[ASYNC]:
            slot = s[STEPS] % 2
            if schedule(s, f, slot) > 0 or s[STEP_PREEMPTED] > 0:
                submit(s, f, slot, 0)
                return SCHEDULED
            s[STEPS] -= 1  # nothing happened: not a step
        if s[BATCHES] > 0:
            slot = (s[STEPS] - s[BATCHES]) % 2
            f[NOW] = max(f[NOW], f[BATCH_END + slot])
            s[BATCHES] -= 1
            if s[NEXT_ABORT] < s[LAST_ABORT]:
                let_in(s, f)  # aborts come before the output
            process(s, f, slot, f[NOW])
            return PROCESSED
        if s[NEXT_ARRIVAL] == s[LAST_ARRIVAL]:
            return STUCK if s[UNFINISHED] > 0 else IDLE
        f[NOW] = next_arrival_s(s, f)


@compiled
def let_in(s: Ints, f: Floats) -> None:
    """Queue the requests that have arrived by now, then take out those whose clients have left."""
    while s[NEXT_ARRIVAL] < s[LAST_ARRIVAL] and next_arrival_s(s, f) <= f[NOW]:
        enqueue(s, f, s[s[NEXT_ARRIVAL]])
        s[NEXT_ARRIVAL] += 1
    while s[NEXT_ABORT] < s[LAST_ABORT] and next_abort_s(s, f) <= f[NOW]:
        abort(s, f, s[s[NEXT_ABORT]], f[NOW])
        s[NEXT_ABORT] += 1


@compiled
def next_arrival_s(s: Ints, f: Floats) -> float:
    """When the next request arrives; there must be one."""
    return f[s[s[s[NEXT_ARRIVAL]] + TIMES] + ARRIVAL]


@compiled
def next_abort_s(s: Ints, f: Floats) -> float:
    """When the next client leaves; there must be one."""
    return f[s[s[s[NEXT_ABORT]] + TIMES] + ABORT]


@compiled
def curve_seconds(s: Ints, f: Floats, tokens: int) -> float:
    """The part of a step's duration that depends on its number of tokens."""
    knots, seconds = s[CURVE_TOKENS], s[CURVE_SECONDS]
    upper = 1
    while upper < s[KNOTS] - 1 and tokens >= f[knots + upper]:
        upper += 1
    rise = f[seconds + upper] - f[seconds + upper - 1]
    slope = rise / (f[knots + upper] - f[knots + upper - 1])
    return f[seconds + upper - 1] + slope * (tokens - f[knots + upper - 1])


@compiled
def step_seconds(f: Floats, curve_s: float, context: int, products: int, requests: int) -> float:
    """Duration of a step: what ``KernelLatency.seconds`` says of its shape."""
    return curve_s + f[PER_CONTEXT] * context + f[PER_PRODUCT] * products + f[PER_REQUEST] * requests


@compiled
def outside_curve(s: Ints, f: Floats, tokens: int) -> bool:
    """Whether a step lies beyond what the latency curve covers."""
    knots = s[CURVE_TOKENS]
    return tokens < f[knots] or tokens > f[knots + s[KNOTS] - 1]


@compiled
def submit(s: Ints, f: Floats, slot: int, unseated: int) -> None:
    """Put a batch on the clock; ``unseated`` requests are in it beside those it lists."""
    facts = BATCH + slot * BATCH_FACTS
    tokens = s[facts + TOKENS]
    start = max(f[NOW], f[GPU_FREE])
    end = start + f[EMPTY_STEP]
    if tokens > 0:
        curve_s = curve_seconds(s, f, tokens)
        requests = s[facts + LENGTH] + unseated
        end = start + step_seconds(f, curve_s, s[facts + CONTEXT], s[facts + PRODUCTS], requests)
        s[OUTSIDE_STEPS] += outside_curve(s, f, tokens)
    f[BATCH_START + slot] = start
    f[BATCH_END + slot] = end
    f[GPU_FREE] = end
    s[BATCHES] += 1
