"""The running and the waiting queue of vLLM's scheduler, compiled: order, preemption, clean-up.

Follows ``vllm/v1/core/sched/request_queue.py`` and ``Scheduler._preempt_request`` (0.32).
"""

from __future__ import annotations

from block.simulation.blocks import release
from block.simulation.compiled import compiled
from block.simulation.layout import (
    ARRIVAL,
    AWAITED,
    BACKGROUND,
    BY_PRIORITY,
    COMPUTED,
    FOREGROUND,
    IN_FLIGHT,
    PLACEHOLDERS,
    PREEMPTED,
    PREEMPTED_LIST,
    PREEMPTIONS,
    PREEMPTIONS_DONE,
    PRIORITY,
    RANK,
    RUNNING,
    RUNNING_COUNT,
    RUNNING_QUEUE,
    STALE,
    STATUS,
    STEP_PREEMPTED,
    TIMES,
    UNFINISHED,
    WAITING,
    WAITING_HEAD,
    WAITING_TAIL,
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
def leave(s: Ints, q: int) -> None:
    """Count a request as out of the engine."""
    s[UNFINISHED] -= 1
    s[AWAITED] -= s[FOREGROUND] <= q < s[BACKGROUND]


@compiled
def _before(s: Ints, f: Floats, q: int, other: int) -> bool:
    if s[q + PRIORITY] != s[other + PRIORITY]:
        return s[q + PRIORITY] < s[other + PRIORITY]
    arrival_s, other_s = f[s[q + TIMES] + ARRIVAL], f[s[other + TIMES] + ARRIVAL]
    if arrival_s != other_s:
        return arrival_s < other_s
    return s[q + RANK] < s[other + RANK]


@compiled
def _less_urgent(s: Ints, f: Floats, q: int, other: int) -> bool:
    if s[q + PRIORITY] != s[other + PRIORITY]:
        return s[q + PRIORITY] > s[other + PRIORITY]
    return f[s[q + TIMES] + ARRIVAL] > f[s[other + TIMES] + ARRIVAL]


@compiled
def victim_place(s: Ints, f: Floats) -> int:
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
def running_place(s: Ints, q: int) -> int:
    """Where a running request stands in its queue."""
    first = s[RUNNING_QUEUE]
    i = first
    while s[i] != q:
        i += 1
    return i - first


@compiled
def remove_running(s: Ints, place: int) -> None:
    """Take one request out of the running queue."""
    first = s[RUNNING_QUEUE]
    for i in range(first + place, first + s[RUNNING_COUNT] - 1):
        s[i] = s[i + 1]
    s[RUNNING_COUNT] -= 1


@compiled
def remove_waiting(s: Ints, place: int) -> None:
    """Close the gap from the front: only requests skipped in this pass lie before it."""
    for i in range(place, s[WAITING_HEAD], -1):
        s[i] = s[i - 1]
    s[WAITING_HEAD] += 1


@compiled
def preempt(s: Ints, f: Floats, q: int) -> None:
    """Free a request's blocks and put it back to the waiting queue's front; it computes all anew."""
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
def compact_running(s: Ints) -> None:
    """Drop requests that are finished."""
    kept = s[RUNNING_QUEUE]
    for i in range(kept, kept + s[RUNNING_COUNT]):
        if s[s[i] + STATUS] == RUNNING:
            s[kept] = s[i]
            kept += 1
    s[RUNNING_COUNT] = kept - s[RUNNING_QUEUE]


@compiled
def compact_waiting(s: Ints) -> None:
    """Drop requests that are finished."""
    tail = s[WAITING_HEAD]
    for i in range(s[WAITING_HEAD], s[WAITING_TAIL]):
        if s[s[i] + STATUS] <= PREEMPTED:
            s[tail] = s[i]
            tail += 1
    s[WAITING_TAIL] = tail


@compiled
def first_waiting(s: Ints) -> int:
    """The waiting request that admission would look at first; -1 when there is none."""
    for i in range(s[WAITING_HEAD], s[WAITING_TAIL]):
        if s[s[i] + STALE] == 0:
            return s[i]
    return -1
