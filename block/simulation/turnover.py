"""An engine whose requests come one by one and go when they are done, compiled.

A simulation from a list knows all its requests beforehand; here a request gets a free record when it is
sent and gives it back at its end, so that a run may be as long as it likes. Steps are taken one by one,
never beyond the time that the rest of the world has reached. Clients do not leave here.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from block.simulation.blocks import forget_own
from block.simulation.compiled import compiled
from block.simulation.kernel import process, schedule
from block.simulation.layout import (
    ABORTED,
    ARRIVAL,
    ARRIVALS,
    ASYNC,
    BATCH,
    BATCH_END,
    BATCH_FACTS,
    BATCH_SEATS,
    BATCHES,
    CACHING,
    COUNT,
    FINISH,
    FINISHED,
    FIRST_TOKEN,
    FUTURE,
    HASH_FIRST,
    HASH_LAST,
    HASHES_AT,
    HIT_TOKENS,
    IN_FLIGHT,
    LAST_ARRIVAL,
    LENGTH,
    MAX_TOKENS,
    NEXT_ARRIVAL,
    NOW,
    OWN_HASH,
    PREEMPTIONS,
    PRIORITY,
    PROMPT,
    RANK,
    RECORD,
    RECORDS,
    REFERENCES,
    RUNNING_COUNT,
    SEATS,
    SHARED,
    SHARED_HASHES,
    STATUS,
    STEP_PREEMPTED,
    STEPS,
    STOP_TOKENS,
    TABLE_AT,
    TABLES,
    TIME_FIELDS,
    TIMES,
    UNFINISHED,
    WAITING_HEAD,
    WAITING_MIDDLE,
    WAITING_TAIL,
)
from block.simulation.loop import let_in, next_arrival_s, submit
from block.simulation.memory import Floats, Ints

# Columns of the fates: what became of each request, by its number.
FATE_FIRST_TOKEN: Final = 0
FATE_FINISH: Final = 1
FATE_PREEMPTIONS: Final = 2
FATE_HITS: Final = 3  # prompt tokens found in the prefix cache when it was last admitted
FATES: Final = 4

# Columns of the requests that are sent.
SENT_PROMPT: Final = 0
SENT_MAX_TOKENS: Final = 1
SENT_OUTPUT: Final = 2
SENT_PRIORITY: Final = 3
SENT: Final = 4


@compiled
def send(s: Ints, f: Floats, free: Ints, number: int, sent: Ints, shared: Ints, arrival_s: float) -> bool:
    """Let request ``number`` arrive at ``arrival_s``; False, and nothing done, if there is no free record.

    ``free`` is a stack of records: its height, then their positions; ``shared`` numbers its leading blocks.
    """
    if free[0] == 0:
        return False
    q = free[free[0]]
    free[0] -= 1
    times = s[q + TIMES]
    for field in range(RECORD):
        s[q + field] = 0
    s[q + TIMES] = times
    s[q + STATUS] = FUTURE
    s[q + RANK] = number
    s[q + PROMPT] = sent[SENT_PROMPT]
    s[q + MAX_TOKENS] = sent[SENT_MAX_TOKENS]
    s[q + STOP_TOKENS] = sent[SENT_OUTPUT]
    s[q + PRIORITY] = sent[SENT_PRIORITY]
    if s[CACHING]:
        _name_blocks(s, q, shared)
    for field in range(TIME_FIELDS):
        f[times + field] = np.nan
    f[times + ARRIVAL] = arrival_s
    _announce(s, f, q, arrival_s)
    return True


@compiled
def _table_length(s: Ints) -> int:
    """Blocks that a record has room for: all have as much."""
    return (s[REFERENCES] - s[TABLES]) // s[COUNT]


@compiled
def _name_blocks(s: Ints, q: int, shared: Ints) -> None:
    """Give a record its part of the block tables and hashes, and note which blocks others have too."""
    row, length = (q - s[RECORDS]) // RECORD, _table_length(s)
    own = s[HASH_LAST] - s[HASH_FIRST] - s[COUNT] * length
    s[q + TABLE_AT] = s[TABLES] + row * length
    s[q + OWN_HASH] = own + row * length
    s[q + HASHES_AT] = s[SHARED] + row * ((s[TABLES] - s[SHARED]) // s[COUNT])
    s[q + SHARED_HASHES] = shared.size
    for i in range(shared.size):
        s[s[q + HASHES_AT] + i] = shared[i]


@compiled
def _announce(s: Ints, f: Floats, q: int, arrival_s: float) -> None:
    """Put a record into the list of arrivals, behind those that come no later."""
    if s[LAST_ARRIVAL] == s[ARRIVALS] + s[COUNT] or s[NEXT_ARRIVAL] == s[LAST_ARRIVAL]:
        pending = s[LAST_ARRIVAL] - s[NEXT_ARRIVAL]
        for i in range(pending):
            s[s[ARRIVALS] + i] = s[s[NEXT_ARRIVAL] + i]
        s[NEXT_ARRIVAL] = s[ARRIVALS]
        s[LAST_ARRIVAL] = s[ARRIVALS] + pending
    i = s[LAST_ARRIVAL]
    while i > s[NEXT_ARRIVAL] and f[s[s[i - 1] + TIMES] + ARRIVAL] > arrival_s:
        s[i] = s[i - 1]
        i -= 1
    s[i] = q
    s[LAST_ARRIVAL] += 1


@compiled
def run_until(s: Ints, f: Floats, until_s: float, free: Ints, fates: Floats, done: Ints) -> float:
    """Do all that the engine does up to ``until_s``; returns when it will act next, infinity for never.

    What ended is written into ``fates`` and listed in ``done``: their count, then their numbers.
    """
    while True:
        _make_room(s)
        let_in(s, f)
        if s[UNFINISHED] > 0 and s[BATCHES] <= s[ASYNC]:
            slot = s[STEPS] % 2
            if schedule(s, f, slot) > 0 or s[STEP_PREEMPTED] > 0:
                submit(s, f, slot, s[BATCH + slot * BATCH_FACTS + LENGTH])
                continue
            s[STEPS] -= 1  # nothing happened: not a step
        if s[BATCHES] > 0:
            slot = (s[STEPS] - s[BATCHES]) % 2
            end_s = max(f[NOW], f[BATCH_END + slot])
            if end_s > until_s:
                return end_s
            f[NOW] = end_s
            s[BATCHES] -= 1
            process(s, f, slot, end_s)
            _clear_up(s, f, slot, free, fates, done)
            continue
        if s[NEXT_ARRIVAL] == s[LAST_ARRIVAL]:
            return np.inf
        arrival_s = next_arrival_s(s, f)
        if arrival_s > until_s:
            return arrival_s
        f[NOW] = arrival_s


@compiled
def _clear_up(s: Ints, f: Floats, slot: int, free: Ints, fates: Floats, done: Ints) -> None:
    """Report the requests that ended with batch ``slot``; give back records that no batch names any more."""
    seat = s[BATCH_SEATS] + 3 * slot * s[SEATS]
    for i in range(seat, seat + s[BATCH + slot * BATCH_FACTS + LENGTH]):
        q = s[i]
        if s[q + STATUS] == FINISHED:
            number = s[q + RANK]
            fates[number, FATE_FIRST_TOKEN] = f[s[q + TIMES] + FIRST_TOKEN]
            fates[number, FATE_FINISH] = f[s[q + TIMES] + FINISH]
            fates[number, FATE_PREEMPTIONS] += s[q + PREEMPTIONS]
            fates[number, FATE_HITS] = min(s[q + HIT_TOKENS], s[q + PROMPT])
            done[0] += 1
            done[done[0]] = number
            s[q + STATUS] = ABORTED
        if s[q + STATUS] == ABORTED and s[q + IN_FLIGHT] == 0:
            s[q + STATUS] = FUTURE
            if s[CACHING]:
                forget_own(s, q, _table_length(s))
            free[0] += 1
            free[free[0]] = q


@compiled
def _make_room(s: Ints) -> None:
    """Move the waiting queue back to its middle when it nears an end of its region."""
    middle, count = s[WAITING_MIDDLE], s[COUNT]
    pending = s[LAST_ARRIVAL] - s[NEXT_ARRIVAL]
    in_front = s[WAITING_HEAD] - (middle - count - 1)
    behind = middle + count + 1 - s[WAITING_TAIL]
    if in_front > s[RUNNING_COUNT] + 1 and behind > pending:
        return
    head, waiting = s[WAITING_HEAD], s[WAITING_TAIL] - s[WAITING_HEAD]
    if head > middle:
        for i in range(waiting):
            s[middle + i] = s[head + i]
    else:
        for i in range(waiting - 1, -1, -1):
            s[middle + i] = s[head + i]
    s[WAITING_HEAD] = middle
    s[WAITING_TAIL] = middle + waiting


@compiled
def run_all_until(
    integers: Ints,
    reals: Floats,
    next_s: Floats,
    until_s: float,
    free: Ints,
    fates: Floats,
    done: Ints,
) -> None:
    """``run_until`` for every engine, one per row; those that do nothing until then are passed over."""
    for engine in range(next_s.size):
        if next_s[engine] <= until_s:
            next_s[engine] = run_until(integers[engine], reals[engine], until_s, free[engine], fates, done)


@compiled
def record_positions(s: Ints, free: Ints) -> None:
    """All records of an empty engine are free, the first on top."""
    free[0] = s[COUNT]
    for row in range(s[COUNT]):
        free[s[COUNT] - row] = s[RECORDS] + row * RECORD
