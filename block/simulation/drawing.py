"""What a predictor would lay out of a running engine, compiled: columns as the feed shows them, a template.

The way of ``capture``, ``resume`` and ``WhatIf`` from an engine to a what-if, without values in between, for
worlds in which many engines are asked about at every arrival. Step times are the predictor's, not the
engine's: steps in flight end as their shape says.
"""

from __future__ import annotations

import numpy as np

from block.simulation import columns, layout, placing
from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.loop import curve_seconds, step_seconds
from block.simulation.memory import Floats, Ints

_FIELDS = len(columns.FIELDS)


@compiled_allocating
def shown(s: Ints, f: Floats) -> tuple[Ints, Floats, Ints]:
    """What the feed shows: (FIELDS, requests) numbers and (requests,) arrival times as in
    ``EngineColumns``, and (requests,) request numbers.
    """
    running = s[layout.RUNNING_COUNT]
    present = running + s[layout.WAITING_TAIL] - s[layout.WAITING_HEAD]
    numbers = np.zeros((_FIELDS, present), np.int64)
    arrival_s = np.empty(present)
    who = np.empty(present, np.int64)
    rows = np.full(s[layout.COUNT], -1, np.int64)
    for r in range(present):
        q = s[s[layout.RUNNING_QUEUE] + r] if r < running else s[s[layout.WAITING_HEAD] + r - running]
        rows[(q - s[layout.RECORDS]) // layout.RECORD] = r
        numbers[columns.COMPUTED, r] = s[q + layout.COMPUTED]
        numbers[columns.GENERATED, r] = s[q + layout.GENERATED]
        numbers[columns.IN_FLIGHT, r] = s[q + layout.IN_FLIGHT]
        if s[q + layout.STATUS] != layout.PREEMPTED:
            numbers[columns.PLACEHOLDERS, r] = s[q + layout.PLACEHOLDERS]
        numbers[columns.PROMPT, r] = s[q + layout.PROMPT]
        numbers[columns.MAX_TOKENS, r] = s[q + layout.MAX_TOKENS]
        numbers[columns.PRIORITY, r] = s[q + layout.PRIORITY]
        numbers[columns.CACHED, r] = min(s[q + layout.HIT_TOKENS], s[q + layout.PROMPT])
        numbers[columns.STATUS, r] = s[q + layout.STATUS]
        arrival_s[r] = f[s[q + layout.TIMES] + layout.ARRIVAL]
        who[r] = s[q + layout.RANK]
    if s[layout.BATCHES] > 0:
        _show_newest(s, numbers, rows)
        _show_promised(s, numbers, rows)
    return numbers, arrival_s, who


@compiled
def _show_newest(s: Ints, numbers: Ints, rows: Ints) -> None:
    """Enter the tokens of the newest step; ``rows``: row of each record, -1 for those that are not shown."""
    slot = (s[layout.STEPS] - 1) % 2
    seat = s[layout.BATCH_SEATS] + 3 * slot * s[layout.SEATS]
    for i in range(seat, seat + s[layout.BATCH + slot * layout.BATCH_FACTS + layout.LENGTH]):
        r = rows[(s[i] - s[layout.RECORDS]) // layout.RECORD]
        if r >= 0:
            numbers[columns.NEWEST, r] = s[i + s[layout.SEATS]]


@compiled
def _show_promised(s: Ints, numbers: Ints, rows: Ints) -> None:
    """Enter the tokens that steps in flight yield to preempted requests, which keep no count of them."""
    steps, width = s[layout.STEPS], s[layout.SEATS]
    for step in range(steps - s[layout.BATCHES], steps):
        slot = step % 2
        seat = s[layout.BATCH_SEATS] + 3 * slot * width
        for i in range(seat, seat + s[layout.BATCH + slot * layout.BATCH_FACTS + layout.LENGTH]):
            r = rows[(s[i] - s[layout.RECORDS]) // layout.RECORD]
            if r >= 0 and numbers[columns.STATUS, r] == layout.PREEMPTED:
                numbers[columns.PLACEHOLDERS, r] += s[i + 2 * width]


@compiled
def longest_request(s: Ints) -> int:
    """As ``resume.longest_request``: of an engine, or of what shows it, in tokens."""
    size, held = s[layout.BLOCK_SIZE], 0
    for i in range(s[layout.RUNNING_QUEUE], s[layout.RUNNING_QUEUE] + s[layout.RUNNING_COUNT]):
        held += -(-s[s[i] + layout.COMPUTED] // size)
    blocks = min(s[layout.FREE_BLOCKS] + held, s[layout.TOTAL_BLOCKS])
    return min(s[layout.MAX_MODEL_LEN], blocks * size + 1)


@compiled_allocating
def template(
    s: Ints,
    f: Floats,
    numbers: Ints,
    arrival_s: Floats,
    header: Ints,
    curve: Floats,
    integers: int,
) -> tuple[Ints, Floats]:
    """The buffers of a what-if about an engine that shows ``numbers``: time counts from its NOW.

    ``header`` is that of an empty simulation of ``integers`` numbers, ``curve`` the reals before its
    requests' times. The records behind those of the shown requests are empty.
    """
    t = np.zeros(integers, np.int64)
    t[: layout.HEADER] = header
    first = t[layout.REQUEST_TIMES]
    g = np.full(first + t[layout.COUNT] * layout.TIME_FIELDS, np.nan)
    g[:first] = curve[:first]
    for r in range(t[layout.COUNT]):
        t[t[layout.RECORDS] + r * layout.RECORD + layout.TIMES] = first + r * layout.TIME_FIELDS
        t[t[layout.RECORDS] + r * layout.RECORD + layout.STATUS] = layout.FUTURE
    placing.place(t, g, numbers, arrival_s, numbers[columns.MAX_TOKENS], f[layout.NOW], longest_request(s))
    t[layout.FREE_BLOCKS] = s[layout.FREE_BLOCKS]
    placing.queue_up(t, numbers, s[layout.RUNNING_COUNT])
    _put_batches_in_flight(s, f, t, g)
    placing.seat(t, numbers)
    return t, g


@compiled
def _put_batches_in_flight(s: Ints, f: Floats, t: Ints, g: Floats) -> None:
    count, end_s = s[layout.BATCHES], 0.0
    t[layout.STEPS] = t[layout.BATCHES] = count
    for slot in range(count):
        old = (s[layout.STEPS] - count + slot) % 2
        facts = layout.BATCH + old * layout.BATCH_FACTS
        start_s = f[layout.BATCH_START + old] - f[layout.NOW]
        if slot > 0:
            start_s = max(end_s, start_s)
        seconds = step_seconds(
            g,
            curve_seconds(t, g, s[facts + layout.TOKENS]),
            s[facts + layout.CONTEXT],
            s[facts + layout.PRODUCTS],
            s[facts + layout.LENGTH],
        )
        end_s = max(start_s + seconds, 0.0) if s[facts + layout.TOKENS] > 0 else start_s
        g[layout.BATCH_START + slot] = start_s
        g[layout.BATCH_END + slot] = end_s
    g[layout.GPU_FREE] = end_s


@compiled
def announce(t: Ints, g: Floats, row: int, prompt: int, output: int, most: int, arrival_s: float) -> int:
    """Let a request arrive that is not shown yet, behind those announced before; its record's position."""
    q = t[layout.RECORDS] + row * layout.RECORD
    t[q + layout.PROMPT] = prompt
    t[q + layout.MAX_TOKENS] = max(most, output)
    t[q + layout.STOP_TOKENS] = min(output, longest_request(t) - prompt)
    g[t[q + layout.TIMES] + layout.ARRIVAL] = arrival_s
    i = t[layout.LAST_ARRIVAL]
    while i > t[layout.NEXT_ARRIVAL] and g[t[t[i - 1] + layout.TIMES] + layout.ARRIVAL] > arrival_s:
        t[i] = t[i - 1]
        i -= 1
    t[i] = q
    t[layout.LAST_ARRIVAL] += 1
    return q


@compiled
def expect(t: Ints, g: Floats, row: int, lengths: Ints, rate_per_s: float, count: int) -> None:
    """Count on ``count`` more arrivals at ``rate_per_s``, from now on whenever that is asked, with
    ``lengths`` (kinds, 2) in turn; in the records from ``row`` on, of which the last one before is empty.
    """
    most = min(t[layout.MAX_MODEL_LEN], t[layout.TOTAL_BLOCKS] * t[layout.BLOCK_SIZE])
    urgency = 0
    for r in range(row):
        urgency = max(urgency, t[t[layout.RECORDS] + r * layout.RECORD + layout.PRIORITY])
    first = t[layout.RECORDS] + row * layout.RECORD
    for k in range(count):
        q = first + k * layout.RECORD
        prompt = min(lengths[k % len(lengths), 0], max(most - 1, 1))
        output = min(max(lengths[k % len(lengths), 1], 1), max(most - prompt, 1))
        t[q + layout.PROMPT] = prompt
        t[q + layout.STOP_TOKENS] = t[q + layout.MAX_TOKENS] = output
        t[q + layout.PRIORITY] = urgency
        t[q + layout.RANK] = row + k
        g[t[q + layout.TIMES] + layout.ARRIVAL] = (k + 0.5) / rate_per_s
        t[t[layout.LAST_ARRIVAL] + k] = q
    t[layout.LAST_ARRIVAL] += count
    t[layout.BACKGROUND] = first
