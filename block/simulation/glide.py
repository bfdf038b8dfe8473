"""Decoding requests as one body, compiled: a step costs its events, not its batch.

Requests that decode do the same in every step: one token more, now and then a block. Gliding holds them
as a *cohort* (see ``cohort``) whose common progress is a single number, and spends time only on who is
prefilling, who joins and who ends. What it cannot follow (a preemption, a budget that does not reach
all) it leaves to stepping. Every integer and every floating-point operation on the clock is the same
as in stepping.
"""

from __future__ import annotations

from block.simulation.batch import append_to_batch, settle
from block.simulation.blocks import blocks_for, grow
from block.simulation.cohort import gather, join_ready, pop_ending, push_back, scatter
from block.simulation.compiled import compiled
from block.simulation.kernel import can_admit_first, prefill_cap, process, schedule_waiting, wanted_running
from block.simulation.layout import (
    ASYNC,
    AWAITED,
    BATCH,
    BATCH_END,
    BATCH_FACTS,
    BATCH_START,
    BATCHES,
    BLOCK_SIZE,
    BLOCKS,
    BORROWED,
    BUCKETS,
    COHORT,
    COHORT_CONTEXT,
    COMPUTED,
    CONTEXT,
    DECODES,
    DRIFT,
    END_DRIFT,
    ENDING,
    FINISH,
    FINISHED,
    FREE_BLOCKS,
    GENERATED,
    GPU_FREE,
    HEAP,
    LAST_ARRIVAL,
    LENGTH,
    MAX_BATCHED,
    MAX_MODEL_LEN,
    MAX_TOKENS,
    MOST_STEPS,
    NEXT_ARRIVAL,
    NOW,
    OUTSIDE_STEPS,
    PRODUCTS,
    PROMPT,
    RUNNING_COUNT,
    RUNNING_QUEUE,
    STATUS,
    STEP_PREEMPTED,
    STEPS,
    TIMES,
    TOKENS,
)
from block.simulation.loop import curve_seconds, let_in, next_arrival_s, outside_curve, step_seconds, submit
from block.simulation.memory import Floats, Ints
from block.simulation.queues import leave, remove_running, running_place

_WORTHWHILE = 2  # members; below, stepping costs no more


@compiled
def glide(s: Ints, f: Floats) -> None:
    """Run as many whole steps as can be followed; does nothing where there is no cohort."""
    if s[BATCHES] != s[ASYNC] or s[RUNNING_COUNT] < _WORTHWHILE or not gather(s):
        return
    while s[COHORT] > 0 and s[BATCHES] == s[ASYNC] and s[AWAITED] > 0 and s[STEPS] < s[MOST_STEPS]:
        let_in(s, f)
        _pass_time(s, f)
        let_in(s, f)  # who came meanwhile
        if not _step(s, f):
            break
        join_ready(s)
    scatter(s)


@compiled
def _step(s: Ints, f: Floats) -> bool:
    """One turn of the engine's loop: schedule a batch, process the oldest. False, and nothing done, if
    stepping must do it.
    """
    ending = pop_ending(s)
    left_out = need_left_out = context_left_out = 0
    offset = (s[BLOCK_SIZE] - s[DRIFT] % s[BLOCK_SIZE]) % s[BLOCK_SIZE]
    if s[ASYNC]:
        for i in range(s[ENDING], s[ENDING] + ending):
            q = s[i]
            if _end_is_foreseen(s, q):
                left_out += 1
                context_left_out += s[q + COMPUTED] + s[DRIFT] + 1
                need_left_out += s[q + COMPUTED] % s[BLOCK_SIZE] == offset
    decodes = s[COHORT] - left_out
    need = s[s[BUCKETS] + offset] - need_left_out
    if decodes > s[MAX_BATCHED] or need + _tail_need(s, s[MAX_BATCHED] - decodes) > s[FREE_BLOCKS]:
        push_back(s, ending)
        return False
    s[FREE_BLOCKS] -= need
    context = s[COHORT_CONTEXT] + s[COHORT] * (s[DRIFT] + 1) - context_left_out
    _schedule(s, f, decodes, context)
    if s[BATCHES] > 0:
        _process_oldest(s, f, ending)
    return True


@compiled
def _end_is_foreseen(s: Ints, q: int) -> bool:
    """Whether the engine knows that the token in flight is this member's last, and schedules no more."""
    generated = s[q + GENERATED] + s[DRIFT] + 1
    return generated >= s[q + MAX_TOKENS] or s[q + PROMPT] + generated >= s[MAX_MODEL_LEN]


@compiled
def _tail_need(s: Ints, budget: int) -> int:
    """Blocks that the requests behind the cohort would take."""
    cap = prefill_cap(s)
    need = 0
    for place in range(s[COHORT], s[RUNNING_COUNT]):
        q = s[s[RUNNING_QUEUE] + place]
        tokens = wanted_running(s, q, cap, budget)
        if tokens > 0:
            budget -= tokens
            slots = min(s[q + COMPUTED] + tokens, s[MAX_MODEL_LEN])
            need += max(blocks_for(s, slots) - s[q + BLOCKS], 0)
    return need


@compiled
def _schedule(s: Ints, f: Floats, decodes: int, context: int) -> None:
    """Fill and submit the next batch: the cohort's part as numbers, the others seated."""
    slot = s[STEPS] % 2
    facts = BATCH + slot * BATCH_FACTS
    s[facts + LENGTH] = 0
    s[STEP_PREEMPTED] = 0
    cap = prefill_cap(s)
    budget = s[MAX_BATCHED] - decodes
    for place in range(s[COHORT], s[RUNNING_COUNT]):
        q = s[s[RUNNING_QUEUE] + place]
        tokens = wanted_running(s, q, cap, budget)
        if tokens > 0:
            slots = min(s[q + COMPUTED] + tokens, s[MAX_MODEL_LEN])
            need = blocks_for(s, slots) - s[q + BLOCKS]
            if need > 0:
                grow(s, q, need)
            append_to_batch(s, slot, q, tokens)
            budget -= tokens
    budget = schedule_waiting(s, slot, cap, budget)
    settle(s, slot)
    s[facts + TOKENS] = s[MAX_BATCHED] - budget
    if s[facts + TOKENS] == 0:
        return
    s[facts + DECODES] += decodes
    s[facts + CONTEXT] += context
    s[STEPS] += 1
    submit(s, f, slot, s[facts + LENGTH] + decodes)


@compiled
def _process_oldest(s: Ints, f: Floats, ending: int) -> None:
    slot = (s[STEPS] - s[BATCHES]) % 2
    now_s = max(f[NOW], f[BATCH_END + slot])
    f[NOW] = now_s
    s[BATCHES] -= 1
    scheduled_ahead = s[BATCHES] > 0
    process(s, f, slot, now_s)
    s[DRIFT] += 1
    for i in range(s[ENDING], s[ENDING] + ending):
        _end(s, f, s[i], scheduled_ahead, now_s)
        remove_running(s, running_place(s, s[i]))


@compiled
def _end(s: Ints, f: Floats, q: int, scheduled_ahead: bool, now_s: float) -> None:
    """A member's last token has come; it was in the newest batch too unless its end was foreseen."""
    s[s[BUCKETS] + s[q + COMPUTED] % s[BLOCK_SIZE]] -= 1
    s[COHORT_CONTEXT] -= s[q + COMPUTED]
    s[COHORT] -= 1
    s[DRIFT] -= 1  # as of the step's scheduling
    foreseen = s[ASYNC] and (not scheduled_ahead or _end_is_foreseen(s, q))
    s[DRIFT] += 1
    s[q + GENERATED] += s[DRIFT]
    s[q + COMPUTED] += s[DRIFT] - foreseen
    s[FREE_BLOCKS] += blocks_for(s, s[q + COMPUTED]) - s[q + BORROWED]
    s[q + BLOCKS] = s[q + BORROWED] = s[q + END_DRIFT] = 0
    s[q + STATUS] = FINISHED
    f[s[q + TIMES] + FINISH] = now_s
    leave(s, q)


@compiled
def _pass_time(s: Ints, f: Floats) -> None:
    """Run all steps at once in which only the cohort moves, and none of it ends."""
    if s[COHORT] < s[RUNNING_COUNT] or s[COHORT] > s[MAX_BATCHED]:
        return
    newest = BATCH + (s[STEPS] - 1) % 2 * BATCH_FACTS
    if s[ASYNC] and s[newest + LENGTH] > 0:
        return
    most = s[s[HEAP]]
    most = min(s[most + END_DRIFT] - s[DRIFT] - 1, s[MOST_STEPS] - s[STEPS])
    if most < 1 or can_admit_first(s):
        return
    count = s[COHORT]
    context = s[COHORT_CONTEXT] + count * (s[DRIFT] + 1)
    curve_s = curve_seconds(s, f, count)
    never = s[NEXT_ARRIVAL] == s[LAST_ARRIVAL]
    arrival_s = 0.0 if never else next_arrival_s(s, f)
    size = s[BLOCK_SIZE]
    bucket = (size - s[DRIFT] % size) % size
    now, start, end = f[NOW], 0.0, f[GPU_FREE]
    previous_end = f[BATCH_END + (s[STEPS] - 1) % 2]
    steps = 0
    while steps < most and (never or now < arrival_s) and s[s[BUCKETS] + bucket] <= s[FREE_BLOCKS]:
        s[FREE_BLOCKS] -= s[s[BUCKETS] + bucket]
        bucket = bucket - 1 if bucket > 0 else size - 1
        start = max(now, end)
        end = start + step_seconds(f, curve_s, context, 0, count)
        now = max(now, previous_end if s[ASYNC] else end)
        previous_end = end
        context += count
        steps += 1
    if steps > 0:
        _settle_passage(s, f, steps, start, end)
        f[NOW] = now
        s[BATCH + (s[STEPS] - 1) % 2 * BATCH_FACTS + CONTEXT] = context - count


@compiled
def _settle_passage(s: Ints, f: Floats, steps: int, start_s: float, end_s: float) -> None:
    """Write down the last step of a passage as the newest batch."""
    s[STEPS] += steps
    s[DRIFT] += steps
    slot = (s[STEPS] - 1) % 2
    facts = BATCH + slot * BATCH_FACTS
    s[facts + LENGTH] = s[facts + PRODUCTS] = 0
    s[facts + TOKENS] = s[facts + DECODES] = s[COHORT]
    f[BATCH_START + slot] = start_s
    f[BATCH_END + slot] = end_s
    f[GPU_FREE] = end_s
    s[OUTSIDE_STEPS] += steps * outside_curve(s, f, s[COHORT])
