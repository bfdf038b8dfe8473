"""vLLM V1's scheduler, compiled: which requests a step computes, and what its output changes.

Follows ``vllm/v1/core/sched/scheduler.py`` and ``async_scheduler.py`` (0.32), statement by statement in
the parts that text generation on one full-attention cache group uses. Knows nothing of time.
"""

from __future__ import annotations

from block.simulation.arrays import (
    ABORTED,
    ARRIVAL,
    ASYNC,
    BLOCK_SIZE,
    BLOCKS,
    BY_PRIORITY,
    CHUNKED,
    COMPUTED,
    CONTEXT,
    DECODES,
    FINISH,
    FINISHED,
    FIRST_TOKEN,
    FREE_BLOCKS,
    GENERATED,
    HIT_TOKENS,
    IN_FLIGHT,
    LENGTH,
    LONG_PREFILL,
    MAX_BATCHED,
    MAX_MODEL_LEN,
    MAX_SEQS,
    MAX_TOKENS,
    PLACEHOLDERS,
    PREEMPTED,
    PREEMPTIONS,
    PRIORITY,
    PRODUCTS,
    PROMPT,
    RANK,
    RESERVE_PROMPT,
    RUNNING,
    RUNNING_COUNT,
    STALE,
    STATUS,
    STEP_PREEMPTED,
    STEPS,
    STOP_TOKENS,
    TOKENS,
    TOTAL_PREEMPTIONS,
    UNFINISHED,
    WAITING,
    WAITING_HEAD,
    WAITING_TAIL,
    WATERMARK,
    Arrays,
)
from block.simulation.blocks import (
    adopt_hits,
    blocks_for,
    cache_full_blocks,
    cache_hit_blocks,
    evictable_hits,
    grow,
    release,
)
from block.simulation.compiled import compiled


@compiled
def enqueue(a: Arrays, r: int) -> None:
    """Put a newly arrived request into the waiting queue."""
    a.requests[STATUS, r] = WAITING
    a.counters[UNFINISHED] += 1
    i = a.counters[WAITING_TAIL]
    a.counters[WAITING_TAIL] += 1
    if a.limits[BY_PRIORITY]:
        while i > a.counters[WAITING_HEAD] and _before(a, r, a.waiting[i - 1]):
            a.waiting[i] = a.waiting[i - 1]
            i -= 1
    a.waiting[i] = r


@compiled
def schedule(a: Arrays, slot: int) -> int:
    """Fill batch ``slot`` with the next step's requests; returns its number of tokens."""
    a.batch_facts[LENGTH, slot] = 0
    a.counters[STEP_PREEMPTED] = 0
    waiting = a.counters[WAITING_TAIL] - a.counters[WAITING_HEAD]
    # A long prompt that is alone starves nobody: the cap applies from two requests on.
    alone = a.counters[RUNNING_COUNT] + waiting <= 1
    cap = 0 if alone else a.limits[LONG_PREFILL]
    budget = _schedule_running(a, slot, cap)
    if a.counters[STEP_PREEMPTED] == 0:
        budget = _schedule_waiting(a, slot, cap, budget)
    _settle(a, slot)
    a.batch_facts[TOKENS, slot] = a.limits[MAX_BATCHED] - budget
    a.counters[STEPS] += 1
    return a.batch_facts[TOKENS, slot]


@compiled
def process(a: Arrays, slot: int, now: float) -> None:
    """Apply the output of batch ``slot``: tokens, stops, freed blocks."""
    left_running = left_waiting = False
    for i in range(a.batch_facts[LENGTH, slot]):
        r = a.batch_requests[slot, i]
        a.requests[IN_FLIGHT, r] -= a.batch_tokens[slot, i]
        stale = a.requests[STALE, r] > 0
        if stale:
            a.requests[STALE, r] -= a.batch_tokens[slot, i]
        if a.requests[STATUS, r] >= FINISHED or a.batch_emits[slot, i] == 0:
            continue
        was_running = a.requests[STATUS, r] == RUNNING
        if _append_token(a, r, stale, now):
            left_running |= was_running
            left_waiting |= not was_running
    if left_running:
        _compact_running(a)
    if left_waiting:
        _compact_waiting(a)


@compiled
def abort(a: Arrays, r: int, now: float) -> None:
    """Take a request out, wherever it is; no-op when it is not in the engine."""
    if a.requests[STATUS, r] > PREEMPTED:
        return
    a.requests[STATUS, r] = ABORTED
    a.times[FINISH, r] = now
    a.counters[UNFINISHED] -= 1
    release(a, r)
    _compact_running(a)
    _compact_waiting(a)


@compiled
def _total(a: Arrays, r: int) -> int:
    return a.requests[PROMPT, r] + a.requests[GENERATED, r]


@compiled
def _schedule_running(a: Arrays, slot: int, cap: int) -> int:
    budget = a.limits[MAX_BATCHED]
    i = 0
    while i < a.counters[RUNNING_COUNT] and budget > 0:
        r = a.running[i]
        tokens = _wanted_running(a, r, cap, budget)
        if tokens <= 0:
            i += 1
            continue
        held = a.requests[BLOCKS, r]
        need = blocks_for(a, min(a.requests[COMPUTED, r] + tokens, a.limits[MAX_MODEL_LEN])) - held
        fits = True
        while need > a.counters[FREE_BLOCKS]:
            victim = _victim_index(a)
            victim_request = a.running[victim]
            _remove_running(a, victim)
            if victim < i:
                i -= 1
                budget += _unschedule(a, slot, victim_request)
            _preempt(a, victim_request)
            if victim_request == r:
                fits = False
                break
        if not fits:
            break
        if need > 0:
            grow(a, r, need)
        cache_full_blocks(a, r, min(a.requests[COMPUTED, r] + tokens, _total(a, r)))
        _append_to_batch(a, slot, r, tokens)
        budget -= tokens
        i += 1
    return budget


@compiled
def _wanted_running(a: Arrays, r: int, cap: int, budget: int) -> int:
    """Tokens a running request would take; 0 means skip it this step."""
    computed, placeholders = a.requests[COMPUTED, r], a.requests[PLACEHOLDERS, r]
    if placeholders > 0 and (
        computed + 2 - placeholders >= a.requests[PROMPT, r] + a.requests[MAX_TOKENS, r]
    ):
        return 0  # the step in flight is sure to reach max_tokens
    tokens = _total(a, r) + placeholders - computed
    if 0 < cap < tokens:
        tokens = cap
    return min(tokens, budget, a.limits[MAX_MODEL_LEN] - computed - 1)


@compiled
def _schedule_waiting(a: Arrays, slot: int, cap: int, budget: int) -> int:
    cursor = a.counters[WAITING_HEAD]
    while budget > 0 and cursor < a.counters[WAITING_TAIL]:
        if a.counters[RUNNING_COUNT] >= a.limits[MAX_SEQS]:
            break
        r = a.waiting[cursor]
        if a.requests[STALE, r] > 0:
            cursor += 1  # its last output is still in flight; it keeps its place
            continue
        hits = cache_hit_blocks(a, r)
        cached = hits * a.limits[BLOCK_SIZE]
        tokens = _total(a, r) - cached
        if 0 < cap < tokens:
            tokens = cap
        if tokens > budget and a.limits[CHUNKED] == 0:
            break
        tokens = min(tokens, budget)
        if not _admit(a, r, hits, cached + tokens):
            break
        _remove_waiting(a, cursor)
        a.running[a.counters[RUNNING_COUNT]] = r
        a.counters[RUNNING_COUNT] += 1
        a.requests[STATUS, r] = RUNNING
        a.requests[COMPUTED, r] = cached
        a.requests[HIT_TOKENS, r] = cached
        _append_to_batch(a, slot, r, tokens)
        budget -= tokens
        cursor += 1
    return budget


@compiled
def _admit(a: Arrays, r: int, hits: int, tokens: int) -> bool:
    """Allocate blocks up to ``tokens`` for a waiting request if they, or its whole prompt, fit."""
    most = a.limits[MAX_MODEL_LEN]
    need = blocks_for(a, min(tokens, most)) - hits
    whole = blocks_for(a, min(_total(a, r), most)) - hits if a.limits[RESERVE_PROMPT] else need
    reserve = evictable_hits(a, r, hits)
    if a.counters[RUNNING_COUNT] > 0:
        reserve += a.limits[WATERMARK]
    if max(need, whole) + reserve > a.counters[FREE_BLOCKS]:
        return False
    adopt_hits(a, r, hits)
    if need > 0:
        grow(a, r, need)
    cache_full_blocks(a, r, min(tokens, _total(a, r)))
    return True


@compiled
def _append_to_batch(a: Arrays, slot: int, r: int, tokens: int) -> None:
    seat = a.batch_facts[LENGTH, slot]
    a.batch_requests[slot, seat] = r
    a.batch_tokens[slot, seat] = tokens
    a.batch_facts[LENGTH, slot] = seat + 1


@compiled
def _settle(a: Arrays, slot: int) -> None:
    """Advance the scheduled requests and sum up the batch's shape."""
    decodes, context, products = 0, 0, 0
    for i in range(a.batch_facts[LENGTH, slot]):
        r, tokens = a.batch_requests[slot, i], a.batch_tokens[slot, i]
        a.requests[COMPUTED, r] += tokens
        a.requests[IN_FLIGHT, r] += tokens
        computed = a.requests[COMPUTED, r]
        emits = computed >= _total(a, r) + a.requests[PLACEHOLDERS, r]
        a.batch_emits[slot, i] = emits
        if emits and a.limits[ASYNC]:
            a.requests[PLACEHOLDERS, r] += 1
        context += computed
        if tokens == 1:
            decodes += 1
        else:
            products += tokens * computed
    a.batch_facts[DECODES, slot] = decodes
    a.batch_facts[CONTEXT, slot] = context
    a.batch_facts[PRODUCTS, slot] = products


@compiled
def _append_token(a: Arrays, r: int, stale: bool, now: float) -> bool:
    """Give a request its sampled token; returns whether that was its last."""
    a.requests[GENERATED, r] += 1
    if a.requests[GENERATED, r] == 1:
        a.times[FIRST_TOKEN, r] = now
    if a.limits[ASYNC] and not stale:
        a.requests[PLACEHOLDERS, r] -= 1
    if a.limits[ASYNC] and a.requests[STATUS, r] == RUNNING:
        cache_full_blocks(a, r, a.requests[COMPUTED, r] - a.requests[PLACEHOLDERS, r])
    full = _total(a, r) >= a.limits[MAX_MODEL_LEN]
    if a.requests[GENERATED, r] < a.requests[STOP_TOKENS, r] and not full:
        return False
    a.requests[STATUS, r] = FINISHED
    a.times[FINISH, r] = now
    a.counters[UNFINISHED] -= 1
    release(a, r)
    return True


@compiled
def _compact_running(a: Arrays) -> None:
    """Drop requests that are finished."""
    kept = 0
    for i in range(a.counters[RUNNING_COUNT]):
        r = a.running[i]
        if a.requests[STATUS, r] == RUNNING:
            a.running[kept] = r
            kept += 1
    a.counters[RUNNING_COUNT] = kept


@compiled
def _compact_waiting(a: Arrays) -> None:
    """Drop requests that are finished."""
    tail = a.counters[WAITING_HEAD]
    for i in range(a.counters[WAITING_HEAD], a.counters[WAITING_TAIL]):
        r = a.waiting[i]
        if a.requests[STATUS, r] <= PREEMPTED:
            a.waiting[tail] = r
            tail += 1
    a.counters[WAITING_TAIL] = tail


@compiled
def _victim_index(a: Arrays) -> int:
    """Which running request is preempted: the newest, or the first among the least urgent."""
    last = a.counters[RUNNING_COUNT] - 1
    if a.limits[BY_PRIORITY] == 0:
        return last
    victim = 0
    for i in range(1, last + 1):
        if _less_urgent(a, a.running[i], a.running[victim]):
            victim = i
    return victim


@compiled
def _less_urgent(a: Arrays, r: int, other: int) -> bool:
    if a.requests[PRIORITY, r] != a.requests[PRIORITY, other]:
        return a.requests[PRIORITY, r] > a.requests[PRIORITY, other]
    return a.times[ARRIVAL, r] > a.times[ARRIVAL, other]


@compiled
def _remove_running(a: Arrays, index: int) -> None:
    for i in range(index, a.counters[RUNNING_COUNT] - 1):
        a.running[i] = a.running[i + 1]
    a.counters[RUNNING_COUNT] -= 1


@compiled
def _unschedule(a: Arrays, slot: int, r: int) -> int:
    """Take a request out of the batch being built; returns the tokens it gives back."""
    length = a.batch_facts[LENGTH, slot]
    for seat in range(length):
        if a.batch_requests[slot, seat] == r:
            tokens = a.batch_tokens[slot, seat]
            for i in range(seat, length - 1):
                a.batch_requests[slot, i] = a.batch_requests[slot, i + 1]
                a.batch_tokens[slot, i] = a.batch_tokens[slot, i + 1]
            a.batch_facts[LENGTH, slot] = length - 1
            return tokens
    return 0


@compiled
def _preempt(a: Arrays, r: int) -> None:
    release(a, r)
    a.requests[STATUS, r] = PREEMPTED
    a.requests[COMPUTED, r] = 0
    a.requests[STALE, r] = a.requests[IN_FLIGHT, r]
    a.requests[PLACEHOLDERS, r] = 0
    a.requests[PREEMPTIONS, r] += 1
    a.counters[TOTAL_PREEMPTIONS] += 1
    a.preempted[a.counters[STEP_PREEMPTED]] = r
    a.counters[STEP_PREEMPTED] += 1
    a.counters[WAITING_HEAD] -= 1
    i = a.counters[WAITING_HEAD]
    if a.limits[BY_PRIORITY]:
        while i + 1 < a.counters[WAITING_TAIL] and _before(a, a.waiting[i + 1], r):
            a.waiting[i] = a.waiting[i + 1]
            i += 1
    a.waiting[i] = r


@compiled
def _before(a: Arrays, r: int, other: int) -> bool:
    if a.requests[PRIORITY, r] != a.requests[PRIORITY, other]:
        return a.requests[PRIORITY, r] < a.requests[PRIORITY, other]
    if a.times[ARRIVAL, r] != a.times[ARRIVAL, other]:
        return a.times[ARRIVAL, r] < a.times[ARRIVAL, other]
    return a.requests[RANK, r] < a.requests[RANK, other]


@compiled
def _remove_waiting(a: Arrays, index: int) -> None:
    """Close the gap from the front: only requests skipped in this pass lie before it."""
    for i in range(index, a.counters[WAITING_HEAD], -1):
        a.waiting[i] = a.waiting[i - 1]
    a.counters[WAITING_HEAD] += 1
