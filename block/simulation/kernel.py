"""vLLM V1's scheduler, compiled: which requests a step computes, and what its output changes.

Follows ``vllm/v1/core/sched/scheduler.py`` and ``async_scheduler.py`` (0.32), statement by statement in
the parts that text generation on one full-attention cache group uses. Knows nothing of durations.
"""

from __future__ import annotations

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
from block.simulation.layout import (
    ABORTED,
    ADAPTIVE_PREFILL,
    ARRIVAL,
    ASYNC,
    BATCH,
    BATCH_FACTS,
    BATCH_SEATS,
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
    PREEMPTED_LIST,
    PREEMPTIONS,
    PREEMPTIONS_DONE,
    PRIORITY,
    PRODUCTS,
    PROMPT,
    RANK,
    RESERVE_PROMPT,
    RUNNING,
    RUNNING_COUNT,
    RUNNING_QUEUE,
    SEATS,
    STALE,
    STATUS,
    STEP_PREEMPTED,
    STEPS,
    STOP_TOKENS,
    TIMES,
    TOKENS,
    UNFINISHED,
    WAITING,
    WAITING_HEAD,
    WAITING_TAIL,
    WATERMARK,
)
from block.simulation.memory import Floats, Ints


@compiled
def enqueue(s: Ints, f: Floats, q: int) -> None:
    """Put a newly arrived request into the waiting queue."""
    s[q + STATUS] = WAITING
    s[UNFINISHED] += 1
    i = s[WAITING_TAIL]
    s[WAITING_TAIL] += 1
    if s[BY_PRIORITY]:
        while i > s[WAITING_HEAD] and _before(s, f, q, s[i - 1]):
            s[i] = s[i - 1]
            i -= 1
    s[i] = q


@compiled
def schedule(s: Ints, f: Floats, slot: int) -> int:
    """Fill batch ``slot`` with the next step's requests; returns its number of tokens."""
    facts = BATCH + slot * BATCH_FACTS
    s[facts + LENGTH] = 0
    s[STEP_PREEMPTED] = 0
    cap = prefill_cap(s)
    budget = _schedule_running(s, f, slot, cap)
    if s[STEP_PREEMPTED] == 0:
        budget = schedule_waiting(s, slot, cap, budget)
    settle(s, slot)
    s[facts + TOKENS] = s[MAX_BATCHED] - budget
    s[STEPS] += 1
    return s[facts + TOKENS]


@compiled
def prefill_cap(s: Ints) -> int:
    """Most tokens a long prompt may take of one step; 0 means no cap.

    A prompt that is alone starves nobody: the cap applies from two requests on.
    """
    requests = s[RUNNING_COUNT] + s[WAITING_TAIL] - s[WAITING_HEAD]
    if requests <= 1 or s[LONG_PREFILL] == 0:
        return 0
    if s[ADAPTIVE_PREFILL]:
        return max(s[LONG_PREFILL], s[MAX_BATCHED] // requests)
    return s[LONG_PREFILL]


@compiled
def process(s: Ints, f: Floats, slot: int, now_s: float) -> None:
    """Apply the output of batch ``slot``: tokens, stops, freed blocks."""
    left_running = left_waiting = False
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    for i in range(seat, seat + s[BATCH + slot * BATCH_FACTS + LENGTH]):
        q, tokens = s[i], s[i + s[SEATS]]
        s[q + IN_FLIGHT] -= tokens
        stale = s[q + STALE] > 0
        if stale:
            s[q + STALE] -= tokens
        if s[q + STATUS] >= FINISHED or s[i + 2 * s[SEATS]] == 0:
            continue
        was_running = s[q + STATUS] == RUNNING
        if _append_token(s, f, q, stale, now_s):
            left_running |= was_running
            left_waiting |= not was_running
    if left_running:
        _compact_running(s)
    if left_waiting:
        _compact_waiting(s)


@compiled
def abort(s: Ints, f: Floats, q: int, now_s: float) -> None:
    """Take a request out, wherever it is; no-op when it is not in the engine."""
    if s[q + STATUS] > PREEMPTED:
        return
    s[q + STATUS] = ABORTED
    f[s[q + TIMES] + FINISH] = now_s
    s[UNFINISHED] -= 1
    release(s, q)
    _compact_running(s)
    _compact_waiting(s)


@compiled
def first_waiting(s: Ints) -> int:
    """The waiting request that admission would look at first; -1 when there is none."""
    for i in range(s[WAITING_HEAD], s[WAITING_TAIL]):
        if s[s[i] + STALE] == 0:
            return s[i]
    return -1


@compiled
def fits(s: Ints, q: int, hits: int, tokens: int) -> bool:
    """Whether blocks up to ``tokens`` (or the whole prompt) are free for a waiting request."""
    need = blocks_for(s, min(tokens, s[MAX_MODEL_LEN])) - hits
    if s[RESERVE_PROMPT]:
        need = max(need, blocks_for(s, min(_total(s, q), s[MAX_MODEL_LEN])) - hits)
    reserve = evictable_hits(s, q, hits)
    if s[RUNNING_COUNT] > 0:
        reserve += s[WATERMARK]
    return need + reserve <= s[FREE_BLOCKS]


@compiled
def _total(s: Ints, q: int) -> int:
    return s[q + PROMPT] + s[q + GENERATED]


@compiled
def _schedule_running(s: Ints, f: Floats, slot: int, cap: int) -> int:
    budget = s[MAX_BATCHED]
    i = 0
    while i < s[RUNNING_COUNT] and budget > 0:
        q = s[s[RUNNING_QUEUE] + i]
        tokens = wanted_running(s, q, cap, budget)
        if tokens <= 0:
            i += 1
            continue
        need = 0
        if s[q + COMPUTED] + tokens > s[q + BLOCKS] * s[BLOCK_SIZE]:  # spares most requests the division
            need = blocks_for(s, s[q + COMPUTED] + tokens) - s[q + BLOCKS]
        while need > s[FREE_BLOCKS]:
            place = _victim_place(s, f)
            victim = s[s[RUNNING_QUEUE] + place]
            _remove_running(s, place)
            if place < i:
                i -= 1
                budget += _unschedule(s, slot, victim)
            _preempt(s, f, victim)
            if victim == q:
                return budget
        if need > 0:
            grow(s, q, need)
        cache_full_blocks(s, q, min(s[q + COMPUTED] + tokens, _total(s, q)))
        append_to_batch(s, slot, q, tokens)
        budget -= tokens
        i += 1
    return budget


@compiled
def wanted_running(s: Ints, q: int, cap: int, budget: int) -> int:
    """Tokens a running request would take; 0 means skip it this step."""
    computed, placeholders = s[q + COMPUTED], s[q + PLACEHOLDERS]
    if placeholders > 0 and computed + 2 - placeholders >= s[q + PROMPT] + s[q + MAX_TOKENS]:
        return 0  # the step in flight is sure to reach max_tokens
    tokens = _total(s, q) + placeholders - computed
    if 0 < cap < tokens:
        tokens = cap
    return min(tokens, budget, s[MAX_MODEL_LEN] - computed - 1)


@compiled
def schedule_waiting(s: Ints, slot: int, cap: int, budget: int) -> int:
    """Admit waiting requests within ``budget``; returns what is left of it."""
    cursor = s[WAITING_HEAD]
    while budget > 0 and cursor < s[WAITING_TAIL] and s[RUNNING_COUNT] < s[MAX_SEQS]:
        q = s[cursor]
        cursor += 1
        if s[q + STALE] > 0:
            continue  # its last output is still in flight; it keeps its place
        hits = cache_hit_blocks(s, q)
        cached = hits * s[BLOCK_SIZE]
        tokens = _total(s, q) - cached
        if 0 < cap < tokens:
            tokens = cap
        if tokens > budget and s[CHUNKED] == 0:
            break
        tokens = min(tokens, budget)
        if not fits(s, q, hits, cached + tokens):
            break
        _admit(s, q, hits, tokens)
        _remove_waiting(s, cursor - 1)
        append_to_batch(s, slot, q, tokens)
        budget -= tokens
    return budget


@compiled
def _admit(s: Ints, q: int, hits: int, tokens: int) -> None:
    """Let a waiting request run, its cached blocks adopted and its first chunk allocated."""
    cached = hits * s[BLOCK_SIZE]
    adopt_hits(s, q, hits)
    need = blocks_for(s, min(cached + tokens, s[MAX_MODEL_LEN])) - hits
    if need > 0:
        grow(s, q, need)
    cache_full_blocks(s, q, min(cached + tokens, _total(s, q)))
    s[s[RUNNING_QUEUE] + s[RUNNING_COUNT]] = q
    s[RUNNING_COUNT] += 1
    s[q + STATUS] = RUNNING
    s[q + COMPUTED] = cached
    s[q + HIT_TOKENS] = cached


@compiled
def append_to_batch(s: Ints, slot: int, q: int, tokens: int) -> None:
    """Give a request a seat in the batch being built."""
    facts = BATCH + slot * BATCH_FACTS
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS] + s[facts + LENGTH]
    s[seat] = q
    s[seat + s[SEATS]] = tokens
    s[facts + LENGTH] += 1


@compiled
def settle(s: Ints, slot: int) -> None:
    """Advance the scheduled requests and sum up the batch's shape."""
    facts = BATCH + slot * BATCH_FACTS
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    decodes, context, products = 0, 0, 0
    for i in range(seat, seat + s[facts + LENGTH]):
        q, tokens = s[i], s[i + s[SEATS]]
        computed = s[q + COMPUTED] + tokens
        s[q + COMPUTED] = computed
        s[q + IN_FLIGHT] += tokens
        emits = computed >= _total(s, q) + s[q + PLACEHOLDERS]
        s[i + 2 * s[SEATS]] = emits
        if emits and s[ASYNC]:
            s[q + PLACEHOLDERS] += 1
        context += computed
        if tokens == 1:
            decodes += 1
        else:
            products += tokens * computed
    s[facts + DECODES] = decodes
    s[facts + CONTEXT] = context
    s[facts + PRODUCTS] = products


@compiled
def _append_token(s: Ints, f: Floats, q: int, stale: bool, now_s: float) -> bool:
    """Give a request its sampled token; returns whether that was its last."""
    s[q + GENERATED] += 1
    if s[q + GENERATED] == 1:
        f[s[q + TIMES] + FIRST_TOKEN] = now_s
    if s[ASYNC] and not stale:
        s[q + PLACEHOLDERS] -= 1
    if s[ASYNC] and s[q + STATUS] == RUNNING:
        cache_full_blocks(s, q, s[q + COMPUTED] - s[q + PLACEHOLDERS])
    if s[q + GENERATED] < s[q + STOP_TOKENS] and _total(s, q) < s[MAX_MODEL_LEN]:
        return False
    s[q + STATUS] = FINISHED
    f[s[q + TIMES] + FINISH] = now_s
    s[UNFINISHED] -= 1
    release(s, q)
    return True


@compiled
def _compact_running(s: Ints) -> None:
    """Drop requests that are finished."""
    kept = s[RUNNING_QUEUE]
    for i in range(kept, kept + s[RUNNING_COUNT]):
        if s[s[i] + STATUS] == RUNNING:
            s[kept] = s[i]
            kept += 1
    s[RUNNING_COUNT] = kept - s[RUNNING_QUEUE]


@compiled
def _compact_waiting(s: Ints) -> None:
    """Drop requests that are finished."""
    tail = s[WAITING_HEAD]
    for i in range(s[WAITING_HEAD], s[WAITING_TAIL]):
        if s[s[i] + STATUS] <= PREEMPTED:
            s[tail] = s[i]
            tail += 1
    s[WAITING_TAIL] = tail


@compiled
def _victim_place(s: Ints, f: Floats) -> int:
    """Whose turn it is to be preempted: the newest, or the first among the least urgent."""
    last = s[RUNNING_COUNT] - 1
    if s[BY_PRIORITY] == 0:
        return last
    victim = 0
    for i in range(1, last + 1):
        if _less_urgent(s, f, s[s[RUNNING_QUEUE] + i], s[s[RUNNING_QUEUE] + victim]):
            victim = i
    return victim


@compiled
def _less_urgent(s: Ints, f: Floats, q: int, other: int) -> bool:
    if s[q + PRIORITY] != s[other + PRIORITY]:
        return s[q + PRIORITY] > s[other + PRIORITY]
    return f[s[q + TIMES] + ARRIVAL] > f[s[other + TIMES] + ARRIVAL]


@compiled
def _remove_running(s: Ints, place: int) -> None:
    first = s[RUNNING_QUEUE]
    for i in range(first + place, first + s[RUNNING_COUNT] - 1):
        s[i] = s[i + 1]
    s[RUNNING_COUNT] -= 1


@compiled
def _unschedule(s: Ints, slot: int, q: int) -> int:
    """Take a request out of the batch being built; returns the tokens it gives back."""
    facts = BATCH + slot * BATCH_FACTS
    first = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    end = first + s[facts + LENGTH]
    for seat in range(first, end):
        if s[seat] == q:
            tokens = s[seat + s[SEATS]]
            for i in range(seat, end - 1):
                s[i] = s[i + 1]
                s[i + s[SEATS]] = s[i + 1 + s[SEATS]]
            s[facts + LENGTH] -= 1
            return tokens
    return 0


@compiled
def _preempt(s: Ints, f: Floats, q: int) -> None:
    release(s, q)
    s[q + STATUS] = PREEMPTED
    s[q + COMPUTED] = 0
    s[q + STALE] = s[q + IN_FLIGHT]
    s[q + PLACEHOLDERS] = 0
    s[q + PREEMPTIONS] += 1
    s[PREEMPTIONS_DONE] += 1
    s[s[PREEMPTED_LIST] + s[STEP_PREEMPTED]] = q
    s[STEP_PREEMPTED] += 1
    s[WAITING_HEAD] -= 1
    i = s[WAITING_HEAD]
    if s[BY_PRIORITY]:
        while i + 1 < s[WAITING_TAIL] and _before(s, f, s[i + 1], q):
            s[i] = s[i + 1]
            i += 1
    s[i] = q


@compiled
def _before(s: Ints, f: Floats, q: int, other: int) -> bool:
    if s[q + PRIORITY] != s[other + PRIORITY]:
        return s[q + PRIORITY] < s[other + PRIORITY]
    arrival_s, other_s = f[s[q + TIMES] + ARRIVAL], f[s[other + TIMES] + ARRIVAL]
    if arrival_s != other_s:
        return arrival_s < other_s
    return s[q + RANK] < s[other + RANK]


@compiled
def _remove_waiting(s: Ints, place: int) -> None:
    """Close the gap from the front: only requests skipped in this pass lie before it."""
    for i in range(place, s[WAITING_HEAD], -1):
        s[i] = s[i - 1]
    s[WAITING_HEAD] += 1
