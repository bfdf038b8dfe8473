"""The runs behind a what-if, compiled: a state laid out once, copied and run to the end for each scenario.

A *template* is a laid-out state with empty records for the newcomer's sequences behind those of the others,
and the requests that are only expected in the last ones. Knows nothing of where it came from, ids and error
texts: what keeps a run from its end is named by its row.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from block.simulation import layout
from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.loop import IDLE
from block.simulation.memory import Floats, Ints
from block.simulation.run import run

# Entries of the answer to one question in one scenario.
TTFT, E2E, TPOT, HARM_SUM, HARM_MAX, PREEMPTIONS, STEPS, OUTSIDE = range(8)
ENTRIES = 8
# Entries of the answers' summary: the means of the above, then these; each maximum follows its deviation.
TTFT_STD, TTFT_MAX, E2E_STD, E2E_MAX = range(ENTRIES, ENTRIES + 4)
FIGURES = ENTRIES + 4

MOST_STEPS: Final = 2**21
"""A run of a what-if is given up there; real ones end after thousands of steps."""
_OVERDUE_GRID: Final = 1 / 8
"""Of a late step's expected duration."""


@compiled_allocating
def summary(answers: Floats, outside_s: float) -> Floats:
    """(figures,): the means over the scenarios, then how far they lie apart; adds the time outside first."""
    scenarios = len(answers)
    answers[:, TTFT] += outside_s
    answers[:, E2E] += outside_s
    figures = np.zeros(FIGURES)
    for scenario in range(scenarios):
        for entry in range(ENTRIES):
            figures[entry] += answers[scenario, entry] / scenarios
    for entry, spread in ((TTFT, TTFT_STD), (E2E, E2E_STD)):
        for scenario in range(scenarios):
            figures[spread] += (answers[scenario, entry] - figures[entry]) ** 2 / scenarios
            figures[spread + 1] = max(figures[spread + 1], answers[scenario, entry])
        figures[spread] = np.sqrt(figures[spread])
    return figures


@compiled
def overdue(template: Ints, times: Floats, now_s: float) -> float:
    """When a step that should have ended before ``now_s`` ends at the earliest; 0 where none is late.

    On a grid, so that questions that follow each other share a baseline.
    """
    for slot in range(template[layout.BATCHES]):
        start_s, end_s = times[layout.BATCH_START + slot], times[layout.BATCH_END + slot]
        if end_s > start_s:  # not one that only preempts
            if now_s <= end_s:
                return 0.0
            grid_s = (end_s - start_s) * _OVERDUE_GRID
            return end_s + math.ceil((now_s - end_s) / grid_s) * grid_s
    return 0.0


@compiled
def _set_stage(s: Ints, f: Floats, stops: Ints, overdue_s: float, as_of_s: float) -> None:
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


@compiled
def _join(s: Ints, f: Floats, row: int, head: Ints, arrival_s: float) -> None:
    """Put one sequence into its spare record, behind all arrivals but those only expected."""
    q = s[layout.RECORDS] + row * layout.RECORD
    for field in range(head.size):
        s[q + field] = head[field]
    f[s[q + layout.TIMES] + layout.ARRIVAL] = arrival_s
    i = s[layout.LAST_ARRIVAL]
    while i > s[layout.NEXT_ARRIVAL] and s[i - 1] >= s[layout.BACKGROUND]:
        s[i] = s[i - 1]
        s[s[i] + layout.PRIORITY] = max(s[s[i] + layout.PRIORITY], s[q + layout.PRIORITY])
        i -= 1
    s[i] = q
    s[layout.LAST_ARRIVAL] += 1
    s[layout.AWAITED] += 1


@compiled
def _culprit(s: Ints) -> int:
    """Row of the request that keeps a run from its end: the first that runs, else the first that waits."""
    first = s[layout.RUNNING_QUEUE] if s[layout.RUNNING_COUNT] > 0 else s[layout.WAITING_HEAD]
    return (s[first] - s[layout.RECORDS]) // layout.RECORD


@compiled
def _preemptions(s: Ints, count: int) -> int:
    """Of the first ``count`` requests; the others' depend on where the run ends."""
    total = 0
    for r in range(count):
        total += s[s[layout.RECORDS] + r * layout.RECORD + layout.PREEMPTIONS]
    return total


@compiled_allocating
def run_alone(
    template: Ints, times: Floats, stops: Ints, overdue_s: float, as_of_s: float
) -> tuple[Floats, Ints, int]:
    """(scenarios, others) finish times and (scenarios,) preemptions without a newcomer; the row of a request
    that keeps a run from its end, -1 if all end.
    """
    scenarios, others = stops.shape
    finishes = np.empty((scenarios, others))
    preemptions = np.empty(scenarios, np.int64)
    s, f = np.empty_like(template), np.empty_like(times)
    for scenario in range(scenarios):
        s[:], f[:] = template, times
        _set_stage(s, f, stops[scenario], overdue_s, as_of_s)
        if run(s, f) != IDLE:
            return finishes, preemptions, _culprit(s)
        for r in range(others):
            at = s[layout.REQUEST_TIMES] + r * layout.TIME_FIELDS
            finishes[scenario, r] = f[at + layout.FINISH]
        preemptions[scenario] = _preemptions(s, others)
    return finishes, preemptions, -1


@compiled_allocating
def ask_template(
    template: Ints,
    times: Floats,
    stops: Ints,
    newcomer: Ints,
    moments: Floats,
    finishes: Floats,
    preemptions: Ints,
) -> tuple[Floats, int]:
    """(scenarios, entries) answers; ``newcomer``: (scenarios, sequences, fields) heads of its records;
    ``moments``: when it arrives, a late step ends, and others are expected from. And the row of a request
    that keeps a run from its end, -1 if all end.

    Without a baseline (no ``finishes``) the entries on the others stay zero.
    """
    scenarios, others = stops.shape
    sequences = newcomer.shape[1]
    answers = np.zeros((scenarios, ENTRIES))
    s, f = np.empty_like(template), np.empty_like(times)
    for scenario in range(scenarios):
        s[:], f[:] = template, times
        _set_stage(s, f, stops[scenario], moments[1], moments[2])
        for number in range(sequences):
            _join(s, f, others + number, newcomer[scenario, number], moments[0])
        if len(preemptions) == 0:  # what becomes of the others later is not asked
            s[layout.FOREGROUND] = s[layout.RECORDS] + others * layout.RECORD
            s[layout.AWAITED] = sequences
        if run(s, f) != IDLE:
            return answers, _culprit(s)
        _note_fate(s, f, others, sequences, moments[0], answers[scenario])
        if len(preemptions) > 0:
            _note_harm(s, f, finishes[scenario], answers[scenario])
            answers[scenario, PREEMPTIONS] = _preemptions(s, others + sequences) - preemptions[scenario]
    return answers, -1


@compiled
def _note_fate(s: Ints, f: Floats, others: int, sequences: int, arrival_s: float, answer: Floats) -> None:
    """What became of the newcomer, and how much of the run the step times are fitted for.

    Of several sequences the first one to begin and the last one to end count.
    """
    answer[TTFT] = math.inf
    for row in range(others, others + sequences):
        fate = s[layout.REQUEST_TIMES] + row * layout.TIME_FIELDS
        first_s, finish_s = f[fate + layout.FIRST_TOKEN], f[fate + layout.FINISH]
        after_first = s[s[layout.RECORDS] + row * layout.RECORD + layout.STOP_TOKENS] - 1
        answer[TTFT] = min(answer[TTFT], first_s - arrival_s)
        answer[E2E] = max(answer[E2E], finish_s - arrival_s)
        answer[TPOT] += (finish_s - first_s) / max(after_first, 1) / sequences
    answer[STEPS] = s[layout.STEPS]
    answer[OUTSIDE] = s[layout.OUTSIDE_STEPS]


@compiled
def _note_harm(s: Ints, f: Floats, finishes: Floats, answer: Floats) -> None:
    """How much later than in ``finishes`` the others ended."""
    for r in range(finishes.size):
        at = s[layout.REQUEST_TIMES] + r * layout.TIME_FIELDS
        harm = f[at + layout.FINISH] - finishes[r]
        answer[HARM_SUM] += harm
        answer[HARM_MAX] = max(answer[HARM_MAX], harm)
