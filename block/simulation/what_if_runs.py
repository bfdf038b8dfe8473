"""The runs behind a what-if, compiled: a state laid out once, copied and run to the end for each scenario.

A *template* is a laid-out state with empty records for the newcomer's sequences behind those of the others,
and the requests that are only expected in the last ones. Knows nothing of where it came from, ids and error
texts: what keeps a run from its end is named by its row.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from block.simulation import layout
from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.head_start import can_join, join, stage
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
def run_alone(heads: Ints, head_times: Floats, others: int) -> tuple[Floats, Ints, int]:
    """(scenarios, others) finish times and (scenarios,) preemptions without a newcomer; the row of a request
    that keeps a run from its end, -1 if all end. ``heads``: see ``head_starts``.
    """
    scenarios = len(heads)
    finishes = np.empty((scenarios, others))
    preemptions = np.empty(scenarios, np.int64)
    s, f = np.empty_like(heads[0]), np.empty_like(head_times[0])
    for scenario in range(scenarios):
        s[:], f[:] = heads[scenario], head_times[scenario]
        if run(s, f) != IDLE:
            return finishes, preemptions, _culprit(s)
        for r in range(others):
            at = s[layout.REQUEST_TIMES] + r * layout.TIME_FIELDS
            finishes[scenario, r] = f[at + layout.FINISH]
        preemptions[scenario] = _preemptions(s, others)
    return finishes, preemptions, -1


class About(NamedTuple):
    """What questions are about: a state, and how far each scenario is the same for all of them."""

    template: Ints
    times: Floats
    stops: Ints
    """(scenarios, others) where the responses end."""
    overdue_s: float
    """When a late step ends."""
    as_of_s: float
    """From when on others are expected."""
    heads: Ints
    head_times: Floats


@compiled_allocating
def ask_about(
    about: About, newcomer: Ints, arrival_s: float, finishes: Floats, preemptions: Ints
) -> tuple[Floats, int]:
    """(scenarios, entries) answers, and the row of a request that keeps a run from its end, -1 if all end.

    ``newcomer``: (scenarios, sequences, fields) heads of its records.
    Without a baseline (no ``finishes``) the entries on the others stay zero.
    """
    scenarios, others = about.stops.shape
    sequences = newcomer.shape[1]
    answers = np.zeros((scenarios, ENTRIES))
    s, f = np.empty_like(about.template), np.empty_like(about.times)
    for scenario in range(scenarios):
        s[:], f[:] = about.heads[scenario], about.head_times[scenario]
        if not can_join(s, f, arrival_s):
            s[:], f[:] = about.template, about.times
            stage(s, f, about.stops[scenario], about.overdue_s, about.as_of_s)
        for number in range(sequences):
            join(s, f, others + number, newcomer[scenario, number], arrival_s)
        if len(preemptions) == 0:  # what becomes of the others later is not asked
            s[layout.FOREGROUND] = s[layout.RECORDS] + others * layout.RECORD
            s[layout.AWAITED] = sequences
        if run(s, f) != IDLE:
            return answers, _culprit(s)
        _note_fate(s, f, others, sequences, arrival_s, answers[scenario])
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
