"""Many decode steps at once, compiled: while the batch stays the same, only sums change.

A leap does for its steps exactly what stepping would do: the same blocks taken in the same order, the
same floating-point operations on the clock. It costs a pass over the batch and a few operations per
step, not a pass per step.
"""

from __future__ import annotations

import numpy as np

from block.simulation.blocks import cache_full_blocks, grow
from block.simulation.compiled import compiled
from block.simulation.kernel import can_admit_first
from block.simulation.layout import (
    ASYNC,
    BATCH,
    BATCH_END,
    BATCH_FACTS,
    BATCH_SEATS,
    BATCH_START,
    BATCHES,
    BLOCK_SIZE,
    BLOCKS,
    BUCKET_NEXT,
    BUCKETS,
    CACHING,
    COMPUTED,
    CONTEXT,
    DECODES,
    FREE_BLOCKS,
    GENERATED,
    GPU_FREE,
    IN_FLIGHT,
    LAST_ABORT,
    LAST_ARRIVAL,
    LENGTH,
    MAX_BATCHED,
    MAX_MODEL_LEN,
    MOST_STEPS,
    NEXT_ABORT,
    NEXT_ARRIVAL,
    NOW,
    OUTSIDE_STEPS,
    PLACEHOLDERS,
    PRODUCTS,
    PROMPT,
    RUNNING_COUNT,
    RUNNING_QUEUE,
    SEATS,
    STEPS,
    STOP_TOKENS,
    TOKENS,
    UNFINISHED,
)
from block.simulation.loop import (
    curve_seconds,
    let_in,
    next_abort_s,
    next_arrival_s,
    outside_curve,
    step_seconds,
)
from block.simulation.memory import Floats, Ints

_WORTHWHILE = 2  # steps; a shorter leap costs more than it saves


@compiled
def leap(s: Ints, f: Floats) -> None:
    """Run the steps up to the next event; does nothing where the next step is an event itself."""
    if s[BATCHES] != s[ASYNC] or s[UNFINISHED] == 0:
        return
    let_in(s, f)
    most = _steady_steps(s)
    if most < _WORTHWHILE or can_admit_first(s):
        return
    _sort_into_buckets(s)
    steps = _pass_time(s, f, most)
    if steps > 0:
        _settle(s, steps)


@compiled
def _steady_steps(s: Ints) -> int:
    """Steps for which all running requests decode and none ends; 0 when some do not decode."""
    count = s[RUNNING_COUNT]
    if count == 0 or count > s[MAX_BATCHED]:
        return 0
    if s[ASYNC]:
        in_flight = BATCH + (s[STEPS] - 1) % 2 * BATCH_FACTS
        if s[in_flight + LENGTH] != count:
            return 0
    most = min(s[MAX_MODEL_LEN], s[MOST_STEPS] - s[STEPS])
    for i in range(s[RUNNING_QUEUE], s[RUNNING_QUEUE] + count):
        q = s[i]
        total = s[q + PROMPT] + s[q + GENERATED]
        decodes = s[q + GENERATED] > 0 and s[q + COMPUTED] == total - 1 + s[ASYNC]
        if not decodes or s[q + PLACEHOLDERS] != s[ASYNC] or s[q + IN_FLIGHT] != s[ASYNC]:
            return 0
        most = min(most, s[q + STOP_TOKENS] - s[q + GENERATED] - 1, s[MAX_MODEL_LEN] - 1 - total)
    return most


@compiled
def _sort_into_buckets(s: Ints) -> None:
    """By computed tokens modulo block size: counts, or with prefix caching lists in running order."""
    for remainder in range(s[BLOCK_SIZE]):
        s[s[BUCKETS] + remainder] = -1 if s[CACHING] else 0
    for place in range(s[RUNNING_COUNT] - 1, -1, -1):
        bucket = s[BUCKETS] + s[s[s[RUNNING_QUEUE] + place] + COMPUTED] % s[BLOCK_SIZE]
        if s[CACHING]:
            s[s[BUCKET_NEXT] + place] = s[bucket]
            s[bucket] = place
        else:
            s[bucket] += 1


@compiled
def _pass_time(s: Ints, f: Floats, most: int) -> int:
    """Run the clock and take the blocks of up to ``most`` steps; returns how many were possible."""
    count = s[RUNNING_COUNT]
    context = count
    for i in range(s[RUNNING_QUEUE], s[RUNNING_QUEUE] + count):
        context += s[s[i] + COMPUTED]
    curve_s = curve_seconds(s, f, count)
    previous_end = f[BATCH_END + (s[STEPS] - 1) % 2]
    arrival_s = next_arrival_s(s, f) if s[NEXT_ARRIVAL] < s[LAST_ARRIVAL] else np.inf
    abort_s = next_abort_s(s, f) if s[NEXT_ABORT] < s[LAST_ABORT] else np.inf
    start = end = f[GPU_FREE]
    now = f[NOW]
    steps = 0
    while steps < most and now < arrival_s:
        next_start = max(now, end)
        next_end = next_start + step_seconds(f, curve_s, context, 0, count)
        next_now = max(now, previous_end if s[ASYNC] else next_end)
        if next_now >= abort_s or not _take_blocks(s, steps):
            break
        start, end, now = next_start, next_end, next_now
        previous_end = end
        context += count
        steps += 1
    f[GPU_FREE] = end
    f[NOW] = now
    if steps > 0:
        slot = (s[STEPS] + steps - 1) % 2
        f[BATCH_START + slot] = start
        f[BATCH_END + slot] = previous_end
        s[BATCH + slot * BATCH_FACTS + CONTEXT] = context - count
        s[OUTSIDE_STEPS] += steps * outside_curve(s, f, count)
    return steps


@compiled
def _take_blocks(s: Ints, step: int) -> bool:
    """Blocks for the leap's step ``step``; False, and none taken, if they are not free."""
    size = s[BLOCK_SIZE]
    bucket = s[BUCKETS] + (size - step % size) % size
    if s[CACHING] == 0:
        if s[bucket] > s[FREE_BLOCKS]:
            return False
        s[FREE_BLOCKS] -= s[bucket]
        return True
    need = 0
    place = s[bucket]
    while place >= 0:
        need += 1
        place = s[s[BUCKET_NEXT] + place]
    if need > s[FREE_BLOCKS]:
        return False
    place = s[bucket]
    while place >= 0:
        grow(s, s[s[RUNNING_QUEUE] + place], 1)
        place = s[s[BUCKET_NEXT] + place]
    _cache_filled(s, step)
    return True


@compiled
def _cache_filled(s: Ints, step: int) -> None:
    """Enter the blocks that the step finds full of known tokens."""
    known = step + 1 - s[ASYNC]  # beyond the computed tokens at the leap's start
    size = s[BLOCK_SIZE]
    place = s[s[BUCKETS] + (size - known % size) % size]
    while place >= 0:
        q = s[s[RUNNING_QUEUE] + place]
        cache_full_blocks(s, q, s[q + COMPUTED] + known)
        place = s[s[BUCKET_NEXT] + place]


@compiled
def _settle(s: Ints, steps: int) -> None:
    """Advance the requests; seat the last step's batch if it is still in flight."""
    count = s[RUNNING_COUNT]
    s[STEPS] += steps
    slot = (s[STEPS] - 1) % 2
    facts = BATCH + slot * BATCH_FACTS
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    s[facts + LENGTH] = s[facts + TOKENS] = s[facts + DECODES] = count
    s[facts + PRODUCTS] = 0
    for place in range(count):
        q = s[s[RUNNING_QUEUE] + place]
        s[q + COMPUTED] += steps
        s[q + GENERATED] += steps
        if s[CACHING] == 0:
            while s[q + BLOCKS] * s[BLOCK_SIZE] < s[q + COMPUTED]:
                s[q + BLOCKS] += 1
        s[seat + place] = q
        s[seat + s[SEATS] + place] = 1
        s[seat + 2 * s[SEATS] + place] = 1
