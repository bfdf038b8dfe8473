"""The part that all runs about one state have in common, compiled: until a newcomer could first be looked at.

First come, first served: as long as no fewer of the requests that are there have yet to end than the engine
has seats, whoever is behind them waits, and nothing depends on who that is. So this part is run once, and
every question starts from its end.
"""

from __future__ import annotations

import numpy as np

from block.simulation import layout
from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.loop import IDLE
from block.simulation.memory import Floats, Ints
from block.simulation.run import run


@compiled
def stage(s: Ints, f: Floats, stops: Ints, overdue_s: float, as_of_s: float) -> None:
    """Lengths of one scenario; no step that is under way ends before ``overdue_s``.

    The run is for the requests whose lengths these are. Others are expected from ``as_of_s`` on: that none
    has come until then is known.
    """
    s[layout.AWAITED] = stops.size
    q = s[layout.RECORDS]
    for r in range(stops.size):
        s[q + layout.STOP_TOKENS] = stops[r]
        s[q + layout.MAX_TOKENS] = max(s[q + layout.MAX_TOKENS], stops[r])
        q += layout.RECORD
    for slot in range(s[layout.BATCHES]):
        if f[layout.BATCH_END + slot] > f[layout.BATCH_START + slot]:  # not one that only preempts
            f[layout.BATCH_END + slot] = max(f[layout.BATCH_END + slot], overdue_s)
            f[layout.GPU_FREE] = max(f[layout.GPU_FREE], overdue_s)
    for i in range(s[layout.NEXT_ARRIVAL], s[layout.LAST_ARRIVAL]):
        if s[i] >= s[layout.BACKGROUND]:
            f[s[s[i] + layout.TIMES] + layout.ARRIVAL] += as_of_s


@compiled_allocating
def head_starts(
    template: Ints, times: Floats, stops: Ints, overdue_s: float, as_of_s: float
) -> tuple[Ints, Floats]:
    """(scenarios, integers) and (scenarios, reals): each scenario as far as it is the same for all.

    ``stops``: (scenarios, others) where the responses end.
    """
    scenarios = len(stops)
    heads, head_times = np.empty((scenarios, template.size), np.int64), np.empty((scenarios, times.size))
    for scenario in range(scenarios):
        s, f = heads[scenario], head_times[scenario]
        s[:], f[:] = template, times
        stage(s, f, stops[scenario], overdue_s, as_of_s)
        if _keeps_order(s) and not _run_ahead(s, f):
            s[:], f[:] = template, times
            stage(s, f, stops[scenario], overdue_s, as_of_s)
    return heads, head_times


@compiled
def _keeps_order(s: Ints) -> bool:
    """Whether those who wait have no effect on others, and are looked at in the order in which they came."""
    if s[layout.BY_PRIORITY] or s[layout.LONG_PREFILL] > 0:
        return False
    for q in range(s[layout.RECORDS], s[layout.BACKGROUND], layout.RECORD):
        if s[q + layout.STALE] > 0:  # passed over for now
            return False
    return True


@compiled
def _run_ahead(s: Ints, f: Floats) -> bool:
    """Run until fewer of the others are left than there are seats; False if somebody may be passed over."""
    last = s[layout.MAX_SEQS] - 1
    if s[layout.AWAITED] <= last:
        return True
    s[layout.AWAITED] -= last
    outcome = run(s, f)
    s[layout.AWAITED] += last
    return outcome == IDLE and not (s[layout.ASYNC] and s[layout.PREEMPTIONS_DONE] > 0)


@compiled
def can_join(s: Ints, f: Floats, arrival_s: float) -> bool:
    """Whether a newcomer of ``arrival_s`` still gets its place in a run that is under way."""
    return not _expected_have_come(s) or arrival_s <= f[layout.NOW]


@compiled
def join(s: Ints, f: Floats, row: int, head: Ints, arrival_s: float) -> None:
    """Put one sequence into its spare record, behind all others but those only expected."""
    q = s[layout.RECORDS] + row * layout.RECORD
    for field in range(head.size):
        s[q + field] = head[field]
    f[s[q + layout.TIMES] + layout.ARRIVAL] = arrival_s
    s[layout.AWAITED] += 1
    if _expected_have_come(s):
        _queue(s, q)
    else:
        _announce(s, q)


@compiled
def _expected_have_come(s: Ints) -> bool:
    """Whether the first of them is in the engine."""
    first = s[layout.BACKGROUND]
    end = s[layout.RECORDS] + s[layout.COUNT] * layout.RECORD
    return first < end and s[first + layout.STATUS] != layout.FUTURE


@compiled
def _queue(s: Ints, q: int) -> None:
    """Into the waiting queue, before those expected, none of which has been looked at."""
    i = s[layout.WAITING_TAIL]
    while i > s[layout.WAITING_HEAD] and s[i - 1] >= s[layout.BACKGROUND]:
        s[i] = s[i - 1]
        i -= 1
    s[i] = q
    s[layout.WAITING_TAIL] += 1
    s[layout.UNFINISHED] += 1
    s[q + layout.STATUS] = layout.WAITING


@compiled
def _announce(s: Ints, q: int) -> None:
    """Behind all arrivals but those expected, who are no more urgent."""
    i = s[layout.LAST_ARRIVAL]
    while i > s[layout.NEXT_ARRIVAL] and s[i - 1] >= s[layout.BACKGROUND]:
        s[i] = s[i - 1]
        s[s[i] + layout.PRIORITY] = max(s[s[i] + layout.PRIORITY], s[q + layout.PRIORITY])
        i -= 1
    s[i] = q
    s[layout.LAST_ARRIVAL] += 1
