"""Buffers of a fleet: roomier ones when an engine has more requests, and the sizes of its what-ifs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation.memory import Floats, Ints, MemoryPlan
from block.simulation.what_if_runs import MOST_STEPS
from block.types import EngineLimits

FEWEST_RECORDS = 64
_LARGER = 1.25
"""What-ifs are laid out for so many more records, one size after the other."""


def what_ifs(kinds: Sequence[tuple[EngineLimits, KernelLatency]], most: int) -> tuple[Ints, Ints, Floats]:
    """Headers, widths and curves of empty what-ifs, in sizes up to ``most`` records."""
    sizes = [FEWEST_RECORDS]
    while sizes[-1] < most:
        sizes.append(math.ceil(sizes[-1] * _LARGER))
    headers = np.zeros((len(kinds), len(sizes), layout.HEADER), np.int64)
    widths = np.zeros((len(kinds), len(sizes)), np.int64)
    firsts = [layout.FLOAT_HEADER + 2 * len(latency.token_knots) for _, latency in kinds]
    curves = np.zeros((len(kinds), max(firsts)))
    for kind, (limits, latency) in enumerate(kinds):
        for index, size in enumerate(sizes):
            memory = MemoryPlan(limits, latency, size, 0, 0, 0).allocate()
            memory.s[layout.MOST_STEPS] = MOST_STEPS
            headers[kind, index], widths[kind, index] = memory.s[: layout.HEADER], len(memory.s)
            curves[kind, : firsts[kind]] = memory.f[: firsts[kind]]
    return headers, widths, curves


def move(s: Ints, f: Floats, larger: Ints, reals: Floats) -> None:
    """Copy an engine into a roomier one; records keep their positions, other regions move."""
    first, count = int(s[layout.RECORDS]), int(s[layout.COUNT])
    larger[first : first + count * layout.RECORD] = s[first : first + count * layout.RECORD]
    times = int(s[layout.REQUEST_TIMES])
    end = times + count * layout.TIME_FIELDS
    reals[:end] = f[:end]
    fixed = larger[: layout.HEADER].copy()
    larger[: layout.HEADER] = s[: layout.HEADER]
    for entry in _PLACES:
        larger[entry] = fixed[entry]
    for first_entry, last_entry, start in _LISTS:
        moved = int(fixed[start] - s[start])
        larger[first_entry], larger[last_entry] = s[first_entry] + moved, s[last_entry] + moved
        larger[larger[first_entry] : larger[last_entry]] = s[s[first_entry] : s[last_entry]]
    _move_tables(s, larger, first, count)
    running, seats = int(s[layout.RUNNING_COUNT]), 6 * int(s[layout.SEATS])
    for entry, length in ((layout.RUNNING_QUEUE, running), (layout.BATCH_SEATS, seats)):
        larger[larger[entry] : larger[entry] + length] = s[s[entry] : s[entry] + length]


def _move_tables(s: Ints, larger: Ints, first: int, count: int) -> None:
    """The prefix cache: block tables, hashes, and the pool's blocks; each record keeps its part."""
    ends = [*(int(s[entry]) for entry in _TABLES[1:]), int(2 * s[layout.HASH_LAST] - s[layout.HASH_FIRST])]
    for entry, end in zip(_TABLES, ends, strict=True):
        begun = int(s[entry])
        larger[larger[entry] : larger[entry] + end - begun] = s[begun:end]
    records = larger[first : first + count * layout.RECORD].reshape(count, layout.RECORD)
    records[:, layout.TABLE_AT] += larger[layout.TABLES] - s[layout.TABLES]
    records[:, layout.HASHES_AT] += larger[layout.SHARED] - s[layout.SHARED]


_TABLES = (
    layout.SHARED,
    layout.TABLES,
    layout.REFERENCES,
    layout.BLOCK_HASH,
    layout.FREE_NEXT,
    layout.FREE_PREVIOUS,
    layout.SAME_NEXT,
    layout.SAME_PREVIOUS,
    layout.HASH_FIRST,
    layout.HASH_LAST,
)
"""Regions of the prefix cache, one behind the other; empty without one."""
_PLACES = (
    *_TABLES,
    layout.RECORDS,
    layout.RUNNING_QUEUE,
    layout.PREEMPTED_LIST,
    layout.BATCH_SEATS,
    layout.BUCKETS,
    layout.BUCKET_NEXT,
    layout.REQUEST_TIMES,
    layout.HEAP,
    layout.ENDING,
    layout.AWAITED,
    layout.BACKGROUND,
    layout.WAITING_MIDDLE,
    layout.ARRIVALS,
    layout.COUNT,
)
"""Entries of the header that are the roomier engine's own."""
_LISTS = (
    (layout.WAITING_HEAD, layout.WAITING_TAIL, layout.WAITING_MIDDLE),
    (layout.NEXT_ARRIVAL, layout.LAST_ARRIVAL, layout.ARRIVALS),
)
"""First and last entry of a list that wanders, and the entry that says where it starts in an empty engine."""


def keep_free(free: Ints, larger: Ints, records: int) -> None:
    """Records that were in use before stay so."""
    height, kept = int(larger[0]) - records, int(free[0])
    # The stack's lower part are the new records.
    larger[1 + height : 1 + height + kept] = free[1 : 1 + kept]
    larger[0] = height + kept
