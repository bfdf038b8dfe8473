"""The runs behind a what-if, compiled: a state laid out once, copied and run to the end for each scenario.

A *template* is a laid-out state with an empty record for the newcomer behind those of the others, and the
requests that are only expected in the last ones. Knows nothing of where it came from.
"""

from __future__ import annotations

import numpy as np

from block.simulation import layout
from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.memory import Floats, Ints
from block.simulation.run import run

# Entries of the answer to one question in one scenario.
TTFT, E2E, TPOT, HARM_SUM, HARM_MAX, PREEMPTIONS, STEPS, OUTSIDE = range(8)
ENTRIES = 8
# Entries of the answers' summary: the means of the above, then these; each maximum follows its deviation.
TTFT_STD, TTFT_MAX, E2E_STD, E2E_MAX = range(ENTRIES, ENTRIES + 4)
FIGURES = ENTRIES + 4


@compiled_allocating
def summary(answers: Floats) -> Floats:
    """(figures,): the means over the scenarios, then how far they lie apart."""
    scenarios = len(answers)
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
def _set_stage(s: Ints, f: Floats, stops: Ints, now_s: float, as_of_s: float) -> None:
    """Lengths of one scenario; a step that is overdue without word of its end ends any moment now.

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
        f[layout.BATCH_END + slot] = max(f[layout.BATCH_END + slot], now_s)
        f[layout.GPU_FREE] = max(f[layout.GPU_FREE], now_s)
    for i in range(s[layout.NEXT_ARRIVAL], s[layout.LAST_ARRIVAL]):
        if s[i] >= s[layout.BACKGROUND]:
            f[s[s[i] + layout.TIMES] + layout.ARRIVAL] += as_of_s


@compiled
def _join(s: Ints, f: Floats, others: int, newcomer: Ints, arrival_s: float) -> None:
    """Put the newcomer into the spare record, behind all arrivals but those only expected."""
    q = s[layout.RECORDS] + others * layout.RECORD
    for field in range(newcomer.size):
        s[q + field] = newcomer[field]
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
def _preemptions(s: Ints, count: int) -> int:
    """Of the first ``count`` requests; the others' depend on where the run ends."""
    total = 0
    for r in range(count):
        total += s[s[layout.RECORDS] + r * layout.RECORD + layout.PREEMPTIONS]
    return total


@compiled
def _await_only(s: Ints, q: int) -> None:
    """Let the run end with this request."""
    s[layout.FOREGROUND] = q
    s[layout.AWAITED] = 1


@compiled_allocating
def run_alone(template: Ints, times: Floats, stops: Ints, now_s: float) -> tuple[Floats, Ints]:
    """(scenarios, others) finish times and (scenarios,) preemptions without a newcomer."""
    scenarios, others = stops.shape
    finishes = np.empty((scenarios, others))
    preemptions = np.empty(scenarios, np.int64)
    s, f = np.empty_like(template), np.empty_like(times)
    for scenario in range(scenarios):
        s[:], f[:] = template, times
        _set_stage(s, f, stops[scenario], now_s, now_s)
        run(s, f)
        for r in range(others):
            at = s[layout.REQUEST_TIMES] + r * layout.TIME_FIELDS
            finishes[scenario, r] = f[at + layout.FINISH]
        preemptions[scenario] = _preemptions(s, others)
    return finishes, preemptions


@compiled_allocating
def ask_template(
    template: Ints,
    times: Floats,
    stops: Ints,
    newcomers: Ints,
    arrival_s: float,
    as_of_s: float,
    finishes: Floats,
    preemptions: Ints,
    harm: bool,
) -> Floats:
    """(scenarios, entries) answers; ``newcomers``: (scenarios, fields) heads of its record.

    Without ``harm`` a run ends with the newcomer, and says nothing of the others; ``finishes`` and
    ``preemptions``, what ``run_alone`` found, are not looked at then.
    """
    scenarios, others = stops.shape
    answers = np.zeros((scenarios, ENTRIES))
    s, f = np.empty_like(template), np.empty_like(times)
    for scenario in range(scenarios):
        s[:], f[:] = template, times
        answer = answers[scenario]
        _set_stage(s, f, stops[scenario], arrival_s, as_of_s)
        _join(s, f, others, newcomers[scenario], arrival_s)
        if not harm:
            _await_only(s, s[layout.RECORDS] + others * layout.RECORD)
        run(s, f)
        fate = s[layout.REQUEST_TIMES] + others * layout.TIME_FIELDS
        answer[TTFT] = f[fate + layout.FIRST_TOKEN] - arrival_s
        answer[E2E] = f[fate + layout.FINISH] - arrival_s
        after_first = max(s[s[layout.RECORDS] + others * layout.RECORD + layout.STOP_TOKENS] - 1, 1)
        answer[TPOT] = (answer[E2E] - answer[TTFT]) / after_first
        if harm:
            for r in range(others):
                at = s[layout.REQUEST_TIMES] + r * layout.TIME_FIELDS
                delay_s = f[at + layout.FINISH] - finishes[scenario, r]
                answer[HARM_SUM] += delay_s
                answer[HARM_MAX] = max(answer[HARM_MAX], delay_s)
            answer[PREEMPTIONS] = _preemptions(s, others + 1) - preemptions[scenario]
        answer[STEPS] = s[layout.STEPS]
        answer[OUTSIDE] = s[layout.OUTSIDE_STEPS]
    return answers
