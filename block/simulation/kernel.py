"""vLLM V1's scheduler, compiled: which requests a step computes, and what its output changes.

Follows ``vllm/v1/core/sched/scheduler.py`` and ``async_scheduler.py`` (0.32), statement by statement in
the parts that text generation on one full-attention cache group uses. Knows nothing of durations.
"""

from __future__ import annotations

from block.simulation.batch import append_to_batch, settle, total, unschedule
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
    ASYNC,
    BATCH,
    BATCH_FACTS,
    BATCH_SEATS,
    BLOCK_SIZE,
    BLOCKS,
    CHUNKED,
    COMPUTED,
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
    PROMPT,
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
    WAITING_HEAD,
    WAITING_TAIL,
    WATERMARK,
)
from block.simulation.memory import Floats, Ints
from block.simulation.queues import (
    compact_running,
    compact_waiting,
    first_waiting,
    leave,
    preempt,
    remove_running,
    remove_waiting,
    victim_place,
)


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
        compact_running(s)
    if left_waiting:
        compact_waiting(s)


@compiled
def abort(s: Ints, f: Floats, q: int, now_s: float) -> None:
    """Take a request out, wherever it is; no-op when it is not in the engine."""
    if s[q + STATUS] > PREEMPTED:
        return
    s[q + STATUS] = ABORTED
    f[s[q + TIMES] + FINISH] = now_s
    leave(s, q)
    release(s, q)
    compact_running(s)
    compact_waiting(s)


@compiled
def can_admit_first(s: Ints) -> bool:
    """Whether the first waiting request could be admitted beside the running ones.

    If not now, then not while all running requests decode either: seats and budget stay, free blocks only
    become fewer, and decoding adds nothing to the prefix cache that a prompt could hit.
    """
    budget = s[MAX_BATCHED] - s[RUNNING_COUNT]
    if s[WAITING_HEAD] == s[WAITING_TAIL] or s[RUNNING_COUNT] >= s[MAX_SEQS] or budget == 0:
        return False
    q = first_waiting(s)
    if q < 0:
        return True
    hits = cache_hit_blocks(s, q)
    cached = hits * s[BLOCK_SIZE]
    tokens = s[q + PROMPT] + s[q + GENERATED] - cached
    cap = prefill_cap(s)
    if 0 < cap < tokens:
        tokens = cap
    if tokens > budget and s[CHUNKED] == 0:
        return False
    return fits(s, q, hits, cached + min(tokens, budget))


@compiled
def fits(s: Ints, q: int, hits: int, tokens: int) -> bool:
    """Whether blocks up to ``tokens`` (or the whole prompt) are free for a waiting request."""
    need = blocks_for(s, min(tokens, s[MAX_MODEL_LEN])) - hits
    if s[RESERVE_PROMPT]:
        need = max(need, blocks_for(s, min(total(s, q), s[MAX_MODEL_LEN])) - hits)
    reserve = evictable_hits(s, q, hits)
    if s[RUNNING_COUNT] > 0:
        reserve += s[WATERMARK]
    return need + reserve <= s[FREE_BLOCKS]


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
        # Divisions are the dearest operations here: most steps need no new block, as a product shows.
        slots = min(s[q + COMPUTED] + tokens, s[MAX_MODEL_LEN])
        need = blocks_for(s, slots) - s[q + BLOCKS] if slots > s[q + BLOCKS] * s[BLOCK_SIZE] else 0
        while need > s[FREE_BLOCKS]:
            place = victim_place(s, f)
            victim = s[s[RUNNING_QUEUE] + place]
            remove_running(s, place)
            if place < i:
                i -= 1
                budget += unschedule(s, slot, victim)
            preempt(s, f, victim)
            if victim == q:
                return budget
        if need > 0:
            grow(s, q, need)
        cache_full_blocks(s, q, min(s[q + COMPUTED] + tokens, total(s, q)))
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
    tokens = total(s, q) + placeholders - computed
    if 0 < cap < tokens:
        tokens = cap
    return min(tokens, budget, s[MAX_MODEL_LEN] - computed - 1)


@compiled
def schedule_waiting(s: Ints, slot: int, cap: int, budget: int) -> int:
    """Admit waiting requests into batch ``slot`` while they fit; returns the budget left."""
    cursor = s[WAITING_HEAD]
    while budget > 0 and cursor < s[WAITING_TAIL] and s[RUNNING_COUNT] < s[MAX_SEQS]:
        q = s[cursor]
        cursor += 1
        if s[q + STALE] > 0:
            continue  # its last output is still in flight; it keeps its place
        hits = cache_hit_blocks(s, q)
        cached = hits * s[BLOCK_SIZE]
        tokens = total(s, q) - cached
        if 0 < cap < tokens:
            tokens = cap
        if tokens > budget and s[CHUNKED] == 0:
            break
        tokens = min(tokens, budget)
        if not fits(s, q, hits, cached + tokens):
            break
        _admit(s, q, hits, tokens)
        remove_waiting(s, cursor - 1)
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
    cache_full_blocks(s, q, min(cached + tokens, total(s, q)))
    s[s[RUNNING_QUEUE] + s[RUNNING_COUNT]] = q
    s[RUNNING_COUNT] += 1
    s[q + STATUS] = RUNNING
    s[q + COMPUTED] = cached
    s[q + HIT_TOKENS] = cached


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
    if s[q + GENERATED] < s[q + STOP_TOKENS] and total(s, q) < s[MAX_MODEL_LEN]:
        return False
    s[q + STATUS] = FINISHED
    f[s[q + TIMES] + FINISH] = now_s
    leave(s, q)
    release(s, q)
    return True
