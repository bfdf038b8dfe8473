"""Puts the requests of ``EngineColumns`` into a simulation's memory, compiled.

Nothing here raises or looks where it writes: see ``resume.check_columns``. Knows nothing of ids and error
texts.
"""

from __future__ import annotations

import math
from typing import Final

from block.simulation import columns, layout
from block.simulation.compiled import compiled
from block.simulation.memory import Floats, Ints
from block.types import RequestStatus

# What can be wrong with a request.
(
    NO_FAULT,
    BAD_ARRIVAL,
    BAD_PROMPT,
    BAD_MAX_TOKENS,
    NEGATIVE,  # and the numbers behind it: NEGATIVE + row of the column
) = range(5)
_FIELDS: Final = len(columns.FIELDS)
NEWEST_EXCEED: Final = NEGATIVE + _FIELDS
COMPUTED_EXCEED: Final = NEWEST_EXCEED + 1
NO_STEP: Final = NEWEST_EXCEED + 2
ENDLESS: Final = NEWEST_EXCEED + 3

_PREEMPTED: Final = int(RequestStatus.PREEMPTED)


@compiled
def first_fault(numbers: Ints, arrival_s: Floats, batches: int, longest: int) -> tuple[int, int]:
    """Row and fault of the first request that cannot be.

    ``batches``: steps in flight; ``longest``: tokens of the longest request that can come to its end.
    """
    for r in range(arrival_s.size):
        fault = _fault(numbers, r, arrival_s[r], batches)
        if fault == NO_FAULT and numbers[columns.PROMPT, r] + numbers[columns.GENERATED, r] >= longest:
            fault = ENDLESS
        if fault != NO_FAULT:
            return r, fault
    return 0, NO_FAULT


@compiled
def _fault(numbers: Ints, r: int, arrival_s: float, batches: int) -> int:
    if not math.isfinite(arrival_s):
        return BAD_ARRIVAL
    if numbers[columns.PROMPT, r] < 1:
        return BAD_PROMPT
    if numbers[columns.MAX_TOKENS, r] < 1:
        return BAD_MAX_TOKENS
    for field in range(_FIELDS):
        if field != columns.PRIORITY and numbers[field, r] < 0:
            return NEGATIVE + field
    return _contradiction(numbers, r, batches)


@compiled
def _contradiction(numbers: Ints, r: int, batches: int) -> int:
    in_flight = numbers[columns.IN_FLIGHT, r]
    if numbers[columns.NEWEST, r] > in_flight:
        return NEWEST_EXCEED
    total = numbers[columns.PROMPT, r] + numbers[columns.GENERATED, r]
    if numbers[columns.COMPUTED, r] > total - 1 + in_flight:
        return COMPUTED_EXCEED
    return NO_STEP if in_flight > 0 and batches == 0 else NO_FAULT


@compiled
def place(
    s: Ints, f: Floats, numbers: Ints, arrival_s: Floats, stops: Ints, origin_s: float, longest: int
) -> None:
    """Write the present requests' records; ``stops`` are (requests,) response tokens, cut to ``longest``."""
    for r in range(arrival_s.size):
        q = s[layout.RECORDS] + r * layout.RECORD
        prompt, at_least = numbers[columns.PROMPT, r], numbers[columns.GENERATED, r] + 1
        preempted = numbers[columns.STATUS, r] == _PREEMPTED
        known = numbers[columns.MAX_TOKENS, r]
        s[q + layout.PROMPT] = prompt
        s[q + layout.MAX_TOKENS] = max(known, at_least)
        stop = max(min(stops[r], known), at_least)
        s[q + layout.STOP_TOKENS] = min(stop, longest - prompt)
        s[q + layout.PRIORITY] = numbers[columns.PRIORITY, r]
        s[q + layout.STATUS] = layout.PREEMPTED if preempted else layout.WAITING
        s[q + layout.COMPUTED] = numbers[columns.COMPUTED, r]
        s[q + layout.GENERATED] = numbers[columns.GENERATED, r]
        s[q + layout.PLACEHOLDERS] = 0 if preempted else numbers[columns.PLACEHOLDERS, r]
        s[q + layout.IN_FLIGHT] = numbers[columns.IN_FLIGHT, r]
        s[q + layout.STALE] = numbers[columns.IN_FLIGHT, r] if preempted else 0
        f[s[q + layout.TIMES] + layout.ARRIVAL] = arrival_s[r] - origin_s


@compiled
def queue_up(s: Ints, numbers: Ints, running: int) -> None:
    """Line up the first ``running`` records as running and the others as waiting; ``FREE_BLOCKS`` is set.

    Blocks that several running requests hold are freed by the last: what they hold beyond the blocks in
    use is borrowed. First their prompts' hits are; a request that came back after a preemption has others.
    """
    held, present = 0, numbers.shape[1]
    for r in range(present):
        q = s[layout.RECORDS] + r * layout.RECORD
        if r < running:
            s[q + layout.STATUS] = layout.RUNNING
            s[q + layout.BLOCKS] = -(-s[q + layout.COMPUTED] // s[layout.BLOCK_SIZE])
            s[s[layout.RUNNING_QUEUE] + r] = q
            held += s[q + layout.BLOCKS]
        else:
            s[s[layout.WAITING_HEAD] + r - running] = q
    s[layout.RUNNING_COUNT] = running
    s[layout.WAITING_TAIL] = s[layout.WAITING_HEAD] + present - running
    s[layout.UNFINISHED] = present
    excess = held - (s[layout.TOTAL_BLOCKS] - s[layout.FREE_BLOCKS])
    for r in range(running):
        q = s[layout.RECORDS] + r * layout.RECORD
        hits = numbers[columns.CACHED, r] // s[layout.BLOCK_SIZE]
        s[q + layout.BORROWED] = min(max(excess, 0), hits, s[q + layout.BLOCKS])
        excess -= s[q + layout.BORROWED]
    for r in range(running):
        q = s[layout.RECORDS] + r * layout.RECORD
        more = min(max(excess, 0), s[q + layout.BLOCKS] - s[q + layout.BORROWED])
        s[q + layout.BORROWED] += more
        excess -= more


@compiled
def seat(s: Ints, numbers: Ints) -> None:
    """Seat the requests of the ``BATCHES`` steps in flight, so that their output is applied when they end."""
    batches = s[layout.BATCHES]
    for r in range(numbers.shape[1]):
        in_flight = numbers[columns.IN_FLIGHT, r]
        newest = numbers[columns.NEWEST, r] if batches > 1 else in_flight
        older = in_flight - newest
        promised = numbers[columns.PLACEHOLDERS, r]
        # Asynchronous scheduling counts a token as promised once its step is scheduled.
        complete = promised > 0
        if s[layout.ASYNC] == 0:
            total = numbers[columns.PROMPT, r] + numbers[columns.GENERATED, r]
            complete = numbers[columns.COMPUTED, r] >= total
        emits_newest = newest > 0 and complete
        emits_older = older > 0 and promised > emits_newest
        if older > 0:
            _sit(s, batches - 2, r, older, emits_older)
        if newest > 0:
            _sit(s, batches - 1, r, newest, emits_newest)


@compiled
def _sit(s: Ints, slot: int, r: int, tokens: int, emits: bool) -> None:
    length = layout.BATCH + slot * layout.BATCH_FACTS + layout.LENGTH
    width, index = s[layout.SEATS], s[length]
    seats = s[layout.BATCH_SEATS] + 3 * slot * width + index
    s[seats] = s[layout.RECORDS] + r * layout.RECORD
    s[seats + width] = tokens
    s[seats + 2 * width] = emits
    s[length] += 1


@compiled
def expect(s: Ints, f: Floats, arrival_s: Floats, prompts: Ints, outputs: Ints, most: int) -> None:
    """Write requests that are only expected into the last records, behind the arrivals there are.

    Lengths are cut to what an engine takes that has room for ``most`` tokens.
    """
    count, first_row = s[layout.COUNT], s[layout.COUNT] - arrival_s.size
    first = s[layout.RECORDS] + first_row * layout.RECORD
    urgency = 0
    for row in range(first_row):
        urgency = max(urgency, s[s[layout.RECORDS] + row * layout.RECORD + layout.PRIORITY])
    for i in range(arrival_s.size):
        q = first + i * layout.RECORD
        prompt = min(prompts[i], max(most - 1, 1))
        output = max(min(outputs[i], max(most - prompt, 1)), 1)
        s[q + layout.PROMPT] = prompt
        s[q + layout.STOP_TOKENS] = s[q + layout.MAX_TOKENS] = output
        # No more urgent than anybody who is there: those who have come go first.
        s[q + layout.PRIORITY] = urgency
        s[q + layout.RANK] = count - arrival_s.size + i
        f[s[q + layout.TIMES] + layout.ARRIVAL] = arrival_s[i]
        s[s[layout.LAST_ARRIVAL] + i] = q
    s[layout.LAST_ARRIVAL] += arrival_s.size
    s[layout.BACKGROUND] = first
