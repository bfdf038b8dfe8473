"""Decoding without visiting the decoding requests, compiled; for engines without prefix caching.

Requests that only decode advance in lockstep. While gliding they carry their counts *as of step zero* of
the glide and are ``LAZY``; one counter, ``GLIDED``, says how far all of them are. A step then costs what
happens in it (prompts, admissions, ends), not the size of the batch, and steps in which nothing happens
cost a few operations each. Which decoding requests need a block in a step is known from counts by
remainder of the block size. Every floating-point operation on the clock is the one that stepping does.

The lazy requests are the front of the running queue: prompts under way stand behind them. Gliding stops
before a step that would need a preemption.
"""

from __future__ import annotations

import numpy as np

from block.simulation.blocks import blocks_for, grow
from block.simulation.compiled import compiled
from block.simulation.joining import somebody_can_join
from block.simulation.kernel import (
    append_to_batch,
    prefill_cap,
    process,
    schedule_waiting,
    settle,
    wanted_running,
)
from block.simulation.layout import (
    ASYNC,
    AWAKE_COUNT,
    BATCH,
    BATCH_END,
    BATCH_FACTS,
    BATCH_SEATS,
    BATCH_START,
    BATCHES,
    BLOCK_SIZE,
    BLOCKS,
    BUCKETS,
    COMPUTED,
    CONTEXT,
    DECODES,
    FREE_BLOCKS,
    GENERATED,
    GLIDED,
    GPU_FREE,
    IN_FLIGHT,
    LAST_ABORT,
    LAST_ARRIVAL,
    LAZY,
    LAZY_CONTEXT,
    LAZY_COUNT,
    LENGTH,
    MAX_BATCHED,
    NEXT_ABORT,
    NEXT_ARRIVAL,
    NEXT_END,
    NOW,
    OUTSIDE_STEPS,
    PLACEHOLDERS,
    PRODUCTS,
    PROMPT,
    RUNNING_COUNT,
    RUNNING_QUEUE,
    SEATS,
    STEP_PREEMPTED,
    STEPS,
    STOP_TOKENS,
    TOKENS,
)
from block.simulation.loop import curve_seconds, let_in, next_arrival_s, outside_curve, step_seconds, submit
from block.simulation.memory import Floats, Ints

_NEVER = 2**62


@compiled
def glide(s: Ints, f: Floats) -> None:
    """Run steps while some requests decode steadily and none needs to be preempted."""
    if s[BATCHES] != s[ASYNC] or s[NEXT_ABORT] < s[LAST_ABORT]:
        return
    _take_off(s)
    while s[LAZY_COUNT] > 0:
        let_in(s, f)
        quiet = _uneventful(s) and not somebody_can_join(s)
        if quiet and _pass_steps(s, f, s[NEXT_END] - s[GLIDED] - 1) > 0:
            continue
        if not _step(s, f):
            break
        _make_lazy(s)
    _land(s)


@compiled
def _take_off(s: Ints) -> None:
    s[GLIDED] = s[LAZY_COUNT] = s[LAZY_CONTEXT] = 0
    s[NEXT_END] = _NEVER
    for remainder in range(s[BLOCK_SIZE]):
        s[s[BUCKETS] + remainder] = 0
    _make_lazy(s)


@compiled
def _make_lazy(s: Ints) -> None:
    """Hand over the requests behind the lazy ones that now decode as steadily."""
    before = s[LAZY_COUNT]
    while s[LAZY_COUNT] < min(s[RUNNING_COUNT], s[MAX_BATCHED]):
        q = s[s[RUNNING_QUEUE] + s[LAZY_COUNT]]
        total = s[q + PROMPT] + s[q + GENERATED]
        ahead = s[ASYNC]
        if s[q + GENERATED] == 0 or s[q + COMPUTED] != total - 1 + ahead:
            break
        if s[q + PLACEHOLDERS] != ahead or s[q + IN_FLIGHT] != ahead:
            break
        s[LAZY_CONTEXT] += s[q + COMPUTED]
        s[q + COMPUTED] -= s[GLIDED]
        s[q + GENERATED] -= s[GLIDED]
        s[q + LAZY] = 1
        s[s[BUCKETS] + s[q + COMPUTED] % s[BLOCK_SIZE]] += 1
        s[NEXT_END] = min(s[NEXT_END], s[q + STOP_TOKENS] - s[q + GENERATED])
        s[LAZY_COUNT] += 1
    if s[LAZY_COUNT] > before and s[ASYNC]:
        _unseat_lazy(s, (s[STEPS] - 1) % 2)


@compiled
def _unseat_lazy(s: Ints, slot: int) -> None:
    """The batch in flight lists only the others: lazy requests are in it by being lazy."""
    facts = BATCH + slot * BATCH_FACTS
    first = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    kept = first
    for seat in range(first, first + s[facts + LENGTH]):
        if s[s[seat] + LAZY] == 0:
            s[kept] = s[seat]
            s[kept + s[SEATS]] = s[seat + s[SEATS]]
            s[kept + 2 * s[SEATS]] = s[seat + 2 * s[SEATS]]
            kept += 1
    s[facts + LENGTH] = kept - first


@compiled
def _wake(s: Ints, q: int) -> None:
    """Give a lazy request its own counts back, and its seat in the batch in flight."""
    s[q + LAZY] = 0
    s[s[BUCKETS] + s[q + COMPUTED] % s[BLOCK_SIZE]] -= 1
    s[q + COMPUTED] += s[GLIDED]
    s[q + GENERATED] += s[GLIDED]
    s[q + BLOCKS] = blocks_for(s, s[q + COMPUTED])
    s[LAZY_CONTEXT] -= s[q + COMPUTED]
    if s[ASYNC]:
        slot = (s[STEPS] - 1) % 2
        append_to_batch(s, slot, q, 1)
        s[s[BATCH_SEATS] + (3 * slot + 2) * s[SEATS] + s[BATCH + slot * BATCH_FACTS + LENGTH] - 1] = 1


@compiled
def _land(s: Ints) -> None:
    """Wake all that are still lazy."""
    for place in range(s[RUNNING_QUEUE], s[RUNNING_QUEUE] + s[LAZY_COUNT]):
        if s[s[place] + LAZY]:
            _wake(s, s[place])
    s[GLIDED] = s[LAZY_COUNT] = s[AWAKE_COUNT] = s[NEXT_END] = 0


@compiled
def _uneventful(s: Ints) -> bool:
    """Whether all running requests are lazy and so is the whole batch in flight."""
    if s[LAZY_COUNT] != s[RUNNING_COUNT]:
        return False
    return s[ASYNC] == 0 or s[BATCH + (s[STEPS] - 1) % 2 * BATCH_FACTS + LENGTH] == 0


@compiled
def _lazy_need(s: Ints) -> int:
    """Blocks that the lazy requests take in the next step."""
    size = s[BLOCK_SIZE]
    return s[s[BUCKETS] + (size - s[GLIDED] % size) % size]


@compiled
def _pass_steps(s: Ints, f: Floats, most: int) -> int:
    """Run the clock over up to ``most`` steps in which nothing but decoding happens; returns how many."""
    count, size = s[LAZY_COUNT], s[BLOCK_SIZE]
    context = s[LAZY_CONTEXT]
    curve_s = curve_seconds(s, f, count)
    arrival_s = next_arrival_s(s, f) if s[NEXT_ARRIVAL] < s[LAST_ARRIVAL] else np.inf
    previous_end = f[BATCH_END + (s[STEPS] - 1) % 2]
    start = end = f[GPU_FREE]
    now, free, ahead = f[NOW], s[FREE_BLOCKS], s[ASYNC] != 0
    bucket = (size - s[GLIDED] % size) % size
    steps = 0
    while steps < most and now < arrival_s:
        need = s[s[BUCKETS] + bucket]
        if need > free:
            break
        free -= need
        bucket = bucket - 1 if bucket > 0 else size - 1
        context += count
        start = max(now, end)
        end = start + step_seconds(f, curve_s, context, 0, count)
        now = max(now, previous_end if ahead else end)
        previous_end = end
        steps += 1
    if steps > 0:
        f[NOW], f[GPU_FREE] = now, end
        s[FREE_BLOCKS], s[LAZY_CONTEXT] = free, context
        s[GLIDED] += steps
        s[STEPS] += steps
        s[OUTSIDE_STEPS] += steps * outside_curve(s, f, count)
        _note_batch(s, f, start, end)
    return steps


@compiled
def _note_batch(s: Ints, f: Floats, start: float, end: float) -> None:
    """Write down the newest batch, lazy requests only."""
    slot = (s[STEPS] - 1) % 2
    facts = BATCH + slot * BATCH_FACTS
    f[BATCH_START + slot], f[BATCH_END + slot] = start, end
    s[facts + TOKENS] = s[facts + DECODES] = s[LAZY_COUNT]
    s[facts + CONTEXT] = s[LAZY_CONTEXT]
    s[facts + LENGTH] = s[facts + PRODUCTS] = 0


@compiled
def _step(s: Ints, f: Floats) -> bool:
    """One step in which something may happen; False, and none made, if advancing must be left to others."""
    if s[NEXT_END] == s[GLIDED] + 1:
        _wake_ending(s)
    lazy = s[LAZY_COUNT] - s[AWAKE_COUNT]
    budget = s[MAX_BATCHED] - lazy
    cap = prefill_cap(s)
    if _need(s, cap, budget) > s[FREE_BLOCKS]:
        return False
    slot = s[STEPS] % 2
    facts = BATCH + slot * BATCH_FACTS
    s[facts + LENGTH] = s[STEP_PREEMPTED] = 0
    s[FREE_BLOCKS] -= _lazy_need(s)
    budget = schedule_waiting(s, slot, cap, _schedule_others(s, slot, cap, budget))
    if budget == s[MAX_BATCHED]:
        return False
    settle(s, slot)
    s[GLIDED] += 1
    s[LAZY_CONTEXT] += lazy
    s[facts + TOKENS] = s[MAX_BATCHED] - budget
    s[facts + DECODES] += lazy
    s[facts + CONTEXT] += s[LAZY_CONTEXT]
    s[STEPS] += 1
    submit(s, f, slot, lazy)
    _process_oldest(s, f)
    return True


@compiled
def _wake_ending(s: Ints) -> None:
    """Wake those whose last token the step brings, and find when the next will end."""
    ends_at, s[NEXT_END] = s[NEXT_END], _NEVER
    for place in range(s[RUNNING_QUEUE], s[RUNNING_QUEUE] + s[LAZY_COUNT]):
        q = s[place]
        own_end = s[q + STOP_TOKENS] - s[q + GENERATED]
        if own_end == ends_at:
            _wake(s, q)
            s[AWAKE_COUNT] += 1
        else:
            s[NEXT_END] = min(s[NEXT_END], own_end)


@compiled
def _need(s: Ints, cap: int, budget: int) -> int:
    """Blocks that all running requests take in the next step, ``budget`` being left to those not lazy."""
    need = _lazy_need(s)
    first = _first_other(s)
    for place in range(s[RUNNING_QUEUE] + first, s[RUNNING_QUEUE] + s[RUNNING_COUNT]):
        q = s[place]
        if s[q + LAZY] or budget == 0:
            continue
        tokens = wanted_running(s, q, cap, budget)
        if tokens > 0:
            need += max(blocks_for(s, s[q + COMPUTED] + tokens) - s[q + BLOCKS], 0)
            budget -= tokens
    return need


@compiled
def _first_other(s: Ints) -> int:
    """Place of the first running request that may not be lazy."""
    return 0 if s[AWAKE_COUNT] > 0 else s[LAZY_COUNT]


@compiled
def _schedule_others(s: Ints, slot: int, cap: int, budget: int) -> int:
    """Schedule the running requests that are not lazy; their blocks are free. Returns what is left."""
    first = _first_other(s)
    for place in range(s[RUNNING_QUEUE] + first, s[RUNNING_QUEUE] + s[RUNNING_COUNT]):
        q = s[place]
        if s[q + LAZY] or budget == 0:
            continue
        tokens = wanted_running(s, q, cap, budget)
        if tokens > 0:
            need = blocks_for(s, s[q + COMPUTED] + tokens) - s[q + BLOCKS]
            if need > 0:
                grow(s, q, need)
            append_to_batch(s, slot, q, tokens)
            budget -= tokens
    return budget


@compiled
def _process_oldest(s: Ints, f: Floats) -> None:
    """Apply the output of the oldest batch; the requests that were woken for it have ended."""
    slot = (s[STEPS] - s[BATCHES]) % 2
    f[NOW] = max(f[NOW], f[BATCH_END + slot])
    s[BATCHES] -= 1
    process(s, f, slot, f[NOW])
    s[LAZY_COUNT] -= s[AWAKE_COUNT]
    s[AWAKE_COUNT] = 0
