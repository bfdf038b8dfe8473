"""Decoding requests as one body, compiled: a step costs its events, not its batch.

Requests that decode do the same in every step: one token more, now and then a block. Gliding holds them
as a *cohort* whose common progress is a single number, and spends time only on who is prefilling, who
joins and who ends. What it cannot follow (a preemption, a budget that does not reach all) it leaves to
stepping. Every integer and every floating-point operation on the clock is the same as in stepping.

The cohort is the front part of the running queue. While gliding, a member's COMPUTED and GENERATED are
short of the truth by DRIFT, its BLOCKS are not kept, and batches hold only the other requests' seats.
"""

from __future__ import annotations

from block.simulation.blocks import blocks_for, grow
from block.simulation.compiled import compiled
from block.simulation.kernel import (
    append_to_batch,
    can_admit_first,
    compact_running,
    prefill_cap,
    process,
    schedule_waiting,
    settle,
    wanted_running,
)
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
    IN_FLIGHT,
    LAST_ARRIVAL,
    LENGTH,
    MAX_BATCHED,
    MAX_MODEL_LEN,
    MAX_TOKENS,
    NEXT_ARRIVAL,
    NOW,
    OUTSIDE_STEPS,
    PLACEHOLDERS,
    PRODUCTS,
    PROMPT,
    RUNNING_COUNT,
    RUNNING_QUEUE,
    SEATS,
    STATUS,
    STEP_PREEMPTED,
    STEPS,
    STOP_TOKENS,
    TIMES,
    TOKENS,
    UNFINISHED,
)
from block.simulation.loop import (
    curve_seconds,
    let_in,
    next_arrival_s,
    outside_curve,
    step_seconds,
    submit,
)
from block.simulation.memory import Floats, Ints

_WORTHWHILE = 2  # members; below, stepping costs no more


@compiled
def glide(s: Ints, f: Floats) -> None:
    """Run as many whole steps as can be followed; does nothing where there is no cohort."""
    if s[BATCHES] != s[ASYNC] or s[RUNNING_COUNT] < _WORTHWHILE or not _gather(s):
        return
    while s[COHORT] > 0 and s[BATCHES] == s[ASYNC]:
        let_in(s, f)
        _pass_time(s, f)
        let_in(s, f)  # who came meanwhile
        if not _step(s, f):
            break
        _join_ready(s)
    _scatter(s)


@compiled
def _decodes_steadily(s: Ints, q: int) -> bool:
    """Whether the request has one token to go and, with one batch ahead, one in flight."""
    ahead = s[ASYNC]
    computed = s[q + PROMPT] + s[q + GENERATED] - 1 + ahead
    return (
        s[q + GENERATED] > 0
        and s[q + COMPUTED] == computed
        and s[q + PLACEHOLDERS] == ahead
        and s[q + IN_FLIGHT] == ahead
    )


@compiled
def _gather(s: Ints) -> bool:
    """Make the cohort of the running queue's front; False if too few decode there."""
    count = 0
    first = s[RUNNING_QUEUE]
    while count < s[RUNNING_COUNT] and _decodes_steadily(s, s[first + count]):
        count += 1
    if count < _WORTHWHILE:
        return False
    s[DRIFT] = s[COHORT] = s[COHORT_CONTEXT] = 0
    for remainder in range(s[BLOCK_SIZE]):
        s[s[BUCKETS] + remainder] = 0
    for place in range(first, first + count):
        _join(s, s[place])
    if s[ASYNC]:
        _unseat_cohort(s)
    return True


@compiled
def _join(s: Ints, q: int) -> None:
    """Take the request at the cohort's end into it."""
    s[q + COMPUTED] -= s[DRIFT]
    s[q + GENERATED] -= s[DRIFT]
    last = min(s[q + STOP_TOKENS], s[MAX_MODEL_LEN] - s[q + PROMPT])
    s[q + END_DRIFT] = last - s[q + GENERATED]
    s[s[BUCKETS] + s[q + COMPUTED] % s[BLOCK_SIZE]] += 1
    s[COHORT_CONTEXT] += s[q + COMPUTED]
    _push(s, q)


@compiled
def _join_ready(s: Ints) -> None:
    """Requests behind the cohort that have begun to decode join it."""
    if s[BATCHES] != s[ASYNC]:
        return
    while s[COHORT] < s[RUNNING_COUNT]:
        q = s[s[RUNNING_QUEUE] + s[COHORT]]
        if not _decodes_steadily(s, q):
            return
        _join(s, q)
        if s[ASYNC]:
            _unseat(s, q)


@compiled
def _unseat(s: Ints, q: int) -> None:
    """Take one request's seat out of the newest batch."""
    slot = (s[STEPS] - 1) % 2
    length = BATCH + slot * BATCH_FACTS + LENGTH
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    end = seat + s[length]
    while seat < end and s[seat] != q:
        seat += 1
    for i in range(seat, end - 1):
        s[i] = s[i + 1]
        s[i + s[SEATS]] = s[i + 1 + s[SEATS]]
        s[i + 2 * s[SEATS]] = s[i + 1 + 2 * s[SEATS]]
    s[length] -= 1


@compiled
def _unseat_cohort(s: Ints) -> None:
    """Take all members' seats out of the batch in flight: their END_DRIFT marks them for now."""
    slot = (s[STEPS] - 1) % 2
    length = BATCH + slot * BATCH_FACTS + LENGTH
    kept = seat = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    for i in range(seat, seat + s[length]):
        q = s[i]
        if s[q + STATUS] < FINISHED and s[q + END_DRIFT] > 0:
            continue
        s[kept] = q
        s[kept + s[SEATS]] = s[i + s[SEATS]]
        s[kept + 2 * s[SEATS]] = s[i + 2 * s[SEATS]]
        kept += 1
    s[length] = kept - seat


@compiled
def _scatter(s: Ints) -> None:
    """Give the members their own numbers back, and their seats in the batch in flight."""
    first, drift = s[RUNNING_QUEUE], s[DRIFT]
    for place in range(first, first + s[COHORT]):
        q = s[place]
        s[q + COMPUTED] += drift
        s[q + GENERATED] += drift
        s[q + BLOCKS] = blocks_for(s, s[q + COMPUTED])
        s[q + END_DRIFT] = 0
    if s[BATCHES] > 0:
        _reseat_cohort(s)
    s[COHORT] = s[DRIFT] = 0


@compiled
def _reseat_cohort(s: Ints) -> None:
    """In running order, the members before all others."""
    slot = (s[STEPS] - 1) % 2
    facts = BATCH + slot * BATCH_FACTS
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    count = s[COHORT]
    live = _drop_dead_seats(s, seat, s[facts + LENGTH])
    for row in range(3):
        for i in range(seat + live - 1, seat - 1, -1):
            s[i + count + row * s[SEATS]] = s[i + row * s[SEATS]]
    for i in range(count):
        s[seat + i] = s[s[RUNNING_QUEUE] + i]
        s[seat + i + s[SEATS]] = 1
        s[seat + i + 2 * s[SEATS]] = 1
    s[facts + LENGTH] = count + live


@compiled
def _drop_dead_seats(s: Ints, seat: int, length: int) -> int:
    """Close up over seats of requests that have finished; returns how many are left."""
    live = 0
    for i in range(seat, seat + length):
        if s[s[i] + STATUS] < FINISHED:
            for row in range(3):
                s[seat + live + row * s[SEATS]] = s[i + row * s[SEATS]]
            live += 1
    return live


@compiled
def _step(s: Ints, f: Floats) -> bool:
    """One turn of the engine's loop: schedule a batch, process the oldest. False, and nothing done, if
    stepping must do it.
    """
    ending = _pop_ending(s)
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
        _push_back(s, ending)
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
    if ending > 0:
        compact_running(s)


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
    s[UNFINISHED] -= 1


@compiled
def _pass_time(s: Ints, f: Floats) -> None:
    """Run all steps at once in which only the cohort moves, and none of it ends."""
    if s[COHORT] < s[RUNNING_COUNT] or s[COHORT] > s[MAX_BATCHED]:
        return
    newest = BATCH + (s[STEPS] - 1) % 2 * BATCH_FACTS
    if s[ASYNC] and s[newest + LENGTH] > 0:
        return
    most = s[s[HEAP]]
    most = s[most + END_DRIFT] - s[DRIFT] - 1
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


@compiled
def _push(s: Ints, q: int) -> None:
    """Onto the heap of members by END_DRIFT; its size is COHORT."""
    heap, i = s[HEAP], s[COHORT]
    while i > 0 and s[s[heap + (i - 1) // 2] + END_DRIFT] > s[q + END_DRIFT]:
        s[heap + i] = s[heap + (i - 1) // 2]
        i = (i - 1) // 2
    s[heap + i] = q
    s[COHORT] += 1


@compiled
def _pop_ending(s: Ints) -> int:
    """Move the members whose last token the next processed batch brings to ENDING; returns how many.

    They stay counted in COHORT until they end.
    """
    heap, size, ending = s[HEAP], s[COHORT], 0
    while size > 0 and s[s[heap] + END_DRIFT] == s[DRIFT] + 1:
        s[s[ENDING] + ending] = s[heap]
        ending += 1
        size -= 1
        _sift_down(s, s[heap + size], size)
    return ending


@compiled
def _sift_down(s: Ints, q: int, size: int) -> None:
    """Place ``q`` from the root of a heap of ``size``."""
    heap, i = s[HEAP], 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and s[s[heap + child + 1] + END_DRIFT] < s[s[heap + child] + END_DRIFT]:
            child += 1
        if s[s[heap + child] + END_DRIFT] >= s[q + END_DRIFT]:
            break
        s[heap + i] = s[heap + child]
        i = child
    s[heap + i] = q


@compiled
def _push_back(s: Ints, ending: int) -> None:
    """Undo ``_pop_ending``."""
    s[COHORT] -= ending
    for i in range(s[ENDING], s[ENDING] + ending):
        _push(s, s[i])
