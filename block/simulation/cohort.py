"""The cohort: requests that decode as one body, compiled. Who joins, who ends next, and the way back.

While gliding (see ``glide``) a member's COMPUTED and GENERATED are short of the truth by DRIFT, its
BLOCKS are not kept, and batches hold only the other requests' seats. The members are the front part of
the running queue; a heap holds them by END_DRIFT.
"""

from __future__ import annotations

from block.simulation.blocks import blocks_for
from block.simulation.compiled import compiled
from block.simulation.layout import (
    ASYNC,
    BATCH,
    BATCH_FACTS,
    BATCH_SEATS,
    BATCHES,
    BLOCK_SIZE,
    BLOCKS,
    BUCKETS,
    COHORT,
    COHORT_CONTEXT,
    COMPUTED,
    DRIFT,
    END_DRIFT,
    ENDING,
    FINISHED,
    GENERATED,
    HEAP,
    IN_FLIGHT,
    LENGTH,
    MAX_MODEL_LEN,
    PLACEHOLDERS,
    PROMPT,
    RUNNING_COUNT,
    RUNNING_QUEUE,
    SEATS,
    STATUS,
    STEPS,
    STOP_TOKENS,
)
from block.simulation.memory import Ints

_WORTHWHILE = 2  # members; below, stepping costs no more


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
def gather(s: Ints) -> bool:
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
def join_ready(s: Ints) -> None:
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
def scatter(s: Ints) -> None:
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
def _push(s: Ints, q: int) -> None:
    """Onto the heap of members by END_DRIFT; its size is COHORT."""
    heap, i = s[HEAP], s[COHORT]
    while i > 0 and s[s[heap + (i - 1) // 2] + END_DRIFT] > s[q + END_DRIFT]:
        s[heap + i] = s[heap + (i - 1) // 2]
        i = (i - 1) // 2
    s[heap + i] = q
    s[COHORT] += 1


@compiled
def pop_ending(s: Ints) -> int:
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
def push_back(s: Ints, ending: int) -> None:
    """Undo ``pop_ending``."""
    s[COHORT] -= ending
    for i in range(s[ENDING], s[ENDING] + ending):
        _push(s, s[i])
