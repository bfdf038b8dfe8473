"""One question put to the predictors of many engines at once, compiled.

Each engine's answer is what its predictor would give (see ``predictor.forecaster``): the state as shown,
choices under way that it was told of, lengths as expected by those who sent the requests, arrivals like the
latest ones. Knows nothing of policies.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from block.simulation import columns, layout
from block.simulation.blocks import cached_blocks
from block.simulation.compiled import compiled, compiled_allocating
from block.simulation.drawing import announce, expect, longest_request, shown, template
from block.simulation.expectation import GRID_SHARE, arrival_rate, expected_as_of_s, expected_count
from block.simulation.head_start import head_starts
from block.simulation.length_rows import mean_tokens, total_tokens
from block.simulation.memory import Floats, Ints
from block.simulation.turnover import SENT_MAX_TOKENS, SENT_PRIORITY, SENT_PROMPT
from block.simulation.what_if_runs import ENTRIES, FIGURES, About, ask_about, overdue, run_alone, summary

# Columns of the loads: the fields of ``EngineLoad`` in their order.
(
    LOAD_RUNNING,
    LOAD_WAITING,
    LOAD_COMMITTED,
    LOAD_FREE_BLOCKS,
    LOAD_TOTAL_BLOCKS,
    LOAD_WAITING_PROMPT_TOKENS,
    LOAD_UNPROCESSED_TOKENS,
) = range(7)
LOADS: Final = 7


class Engines(NamedTuple):
    """All engines, one per row, and how what-ifs about them are laid out."""

    integers: Ints
    reals: Floats
    kinds: Ints
    """(engines,) which of the kinds of what-ifs applies."""
    headers: Ints
    """(kinds, sizes, HEADER) of empty what-ifs, by rising number of records."""
    widths: Ints
    """(kinds, sizes) integers of each."""
    curves: Floats
    """(kinds, ...) the reals of a what-if before its requests' times."""


class Known(NamedTuple):
    """What is known of requests outside of the engines, by their numbers."""

    sent: Ints
    """(requests, SENT)"""
    lengths: Floats
    """(requests, ...) expected response lengths, as ``length_rows``."""
    levels: Floats
    """(requests, scenarios) at which a length is taken in each; a single scenario takes the means."""
    told_s: Floats
    """(requests,) when the predictor of the chosen knows of the choice."""
    sender: Ints
    """(requests,) who chose; its questions tell of its own choices."""
    cached: Ints
    """(requests,) tokens of the prompt that who chose believed to be cached there."""


class Seen(NamedTuple):
    """The latest arrivals at each engine, which let expect more."""

    since_s: Floats
    """(engines,) the first look; infinity where nothing is expected."""
    arrivals: Ints
    """(engines,) how many are remembered."""
    times_s: Floats
    """(engines, MOST) of which so many are used."""
    lengths: Ints
    """(engines, KINDS, 2) in a mixed order."""
    kinds: Ints
    """(engines,) how many of those are used."""


@compiled_allocating
def survey_loads(engines: Engines, known: Known, asked: Ints, now_s: float, asker: int, told: bool) -> Ints:
    """(asked, LOADS) counters for heuristics. ``told``: whether choices are told to predictors at all."""
    loads = np.zeros((asked.size, LOADS), np.int64)
    for place in range(asked.size):
        s, f = engines.integers[asked[place]], engines.reals[asked[place]]
        numbers, _, who = shown(s, f)
        coming = _coming(s, known, now_s, asker, told)
        _sum_up(s, numbers, who, coming, known, loads[place])
    return loads


@compiled_allocating
def survey_cached(engines: Engines, asked: Ints, shared: Ints) -> Ints:
    """(asked,) leading prompt tokens that are cached of a request with these ``shared`` blocks."""
    tokens = np.zeros(asked.size, np.int64)
    for place in range(asked.size):
        s = engines.integers[asked[place]]
        tokens[place] = cached_blocks(s, shared) * s[layout.BLOCK_SIZE]
    return tokens


@compiled_allocating
def survey(
    engines: Engines,
    known: Known,
    seen: Seen,
    asked: Ints,
    cached: Ints,
    number: int,
    now_s: float,
    asker: int,
    told: bool,
    scenarios: int,
    harm: bool,
) -> tuple[Floats, Floats, Ints]:
    """What request ``number`` would meet at each of the ``asked`` engines.

    ``cached``: (asked,) tokens of its prompt that they are believed to have cached.
    Returns (asked, FIGURES) summaries, (asked, scenarios, ENTRIES) answers and (asked, LOADS) loads.
    """
    figures = np.empty((asked.size, FIGURES))
    answers = np.empty((asked.size, scenarios, ENTRIES))
    loads = np.zeros((asked.size, LOADS), np.int64)
    for place in range(asked.size):
        engine = asked[place]
        s, f = engines.integers[engine], engines.reals[engine]
        numbers, arrival_s, who = shown(s, f)
        coming = _coming(s, known, now_s, asker, told)
        _sum_up(s, numbers, who, coming, known, loads[place])
        rate_per_s = _rate(seen, engine, now_s)
        expected, others = expected_count(rate_per_s), who.size + coming.size
        t, g = _laid_out(engines, engine, numbers, arrival_s, others + 1 + expected)
        for r in range(coming.size):
            q = _announce_coming(t, g, who.size + r, known, coming[r], f[layout.NOW], now_s)
            t[q + layout.LIKELY_HITS] = _likely_hits(s, known, coming[r], known.cached[coming[r]])
        everybody = np.concatenate((who, coming))
        _rank(t, everybody)
        if expected > 0:
            expect(t, g, others + 1, seen.lengths[engine, : seen.kinds[engine]], rate_per_s, expected)
        stops = _stops(t, everybody, known, scenarios)
        newcomer = _newcomer(t, known, number, scenarios)
        newcomer[:, 0, layout.LIKELY_HITS] = _likely_hits(s, known, number, cached[place])
        since_s = max(now_s - f[layout.NOW], 0.0)
        answers[place] = _ask(t, g, stops, newcomer, since_s, rate_per_s, harm)
        figures[place] = summary(answers[place], 0.0)
    return figures, answers, loads


@compiled_allocating
def _laid_out(
    engines: Engines, engine: int, numbers: Ints, arrival_s: Floats, records: int
) -> tuple[Ints, Floats]:
    """A template of one engine's requests, with so many records or more."""
    kind = engines.kinds[engine]
    size = _size_for(engines.headers[kind], records)
    return template(
        engines.integers[engine],
        engines.reals[engine],
        numbers,
        arrival_s,
        engines.headers[kind, size],
        engines.curves[kind],
        engines.widths[kind, size],
    )


@compiled
def _rate(seen: Seen, engine: int, now_s: float) -> float:
    """Of the arrivals to be expected at one engine."""
    if seen.since_s[engine] == np.inf:
        return 0.0
    return arrival_rate(seen.times_s[engine, : seen.arrivals[engine]], seen.since_s[engine], now_s)


@compiled
def _rank(t: Ints, numbers: Ints) -> None:
    """The last tie-break of the priority queue is the order of requests."""
    for r in range(numbers.size):
        t[t[layout.RECORDS] + r * layout.RECORD + layout.RANK] = numbers[r]


@compiled_allocating
def _ask(
    t: Ints, g: Floats, stops: Ints, newcomer: Ints, since_s: float, rate_per_s: float, harm: bool
) -> Floats:
    """As ``WhatIf.ask``: the baseline, where it is wanted, and the newcomer's runs.

    Not a number where some run has no end.
    """
    as_of_s = expected_as_of_s(since_s, GRID_SHARE / rate_per_s) if rate_per_s > 0.0 else 0.0
    overdue_s = overdue(t, g, since_s)
    heads, head_times = head_starts(t, g, stops, overdue_s, as_of_s)
    finishes, preemptions, culprit = np.empty((0, 0)), np.empty(0, np.int64), -1
    if harm:
        finishes, preemptions, culprit = run_alone(heads, head_times, stops.shape[1])
    if culprit < 0:
        about = About(t, g, stops, overdue_s, as_of_s, heads, head_times)
        answers, culprit = ask_about(about, newcomer, since_s, finishes, preemptions)
        if culprit < 0:
            return answers
    return np.full((len(stops), ENTRIES), np.nan)


@compiled
def _size_for(headers: Ints, records: int) -> int:
    """The smallest what-if that has so many records."""
    size = 0
    while headers[size, layout.COUNT] < records:
        size += 1
    return size


@compiled_allocating
def _coming(s: Ints, known: Known, now_s: float, asker: int, told: bool) -> Ints:
    """Numbers of the requests under way to an engine that its predictor knows of."""
    first, last = s[layout.NEXT_ARRIVAL], s[layout.LAST_ARRIVAL]
    numbers = np.empty(last - first, np.int64)
    count = 0
    for i in range(first, last):
        number = s[s[i] + layout.RANK]
        if told and (known.told_s[number] <= now_s or known.sender[number] == asker):
            numbers[count] = number
            count += 1
    return numbers[:count]


@compiled
def _announce_coming(
    t: Ints, g: Floats, row: int, known: Known, number: int, origin_s: float, now_s: float
) -> int:
    """A choice that only its sender tells of is known from now on."""
    sent = known.sent[number]
    expected = _whole(mean_tokens(known.lengths[number], 0), sent[SENT_MAX_TOKENS])
    told_s = min(known.told_s[number], now_s)
    q = announce(t, g, row, sent[SENT_PROMPT], expected, sent[SENT_MAX_TOKENS], told_s - origin_s)
    t[q + layout.PRIORITY] = sent[SENT_PRIORITY]
    return q


@compiled
def _likely_hits(s: Ints, known: Known, number: int, tokens: int) -> int:
    """As ``resume.likely_hits``: whole blocks, and never the prompt's last token."""
    if s[layout.CACHING] == 0:
        return 0
    return max(min(tokens, known.sent[number, SENT_PROMPT] - 1), 0) // s[layout.BLOCK_SIZE]


@compiled_allocating
def _stops(t: Ints, who: Ints, known: Known, scenarios: int) -> Ints:
    """(scenarios, requests) response lengths of the others."""
    stops = np.empty((scenarios, who.size), np.int64)
    longest = longest_request(t)
    for r in range(who.size):
        q = t[layout.RECORDS] + r * layout.RECORD
        generated = t[q + layout.GENERATED]
        most = min(t[q + layout.MAX_TOKENS], longest - t[q + layout.PROMPT])
        for scenario in range(scenarios):
            tokens = _length(known, who[r], generated, scenario, scenarios)
            whole = _whole(tokens, t[q + layout.MAX_TOKENS])
            stops[scenario, r] = max(min(whole, most), generated + 1)
    return stops


@compiled_allocating
def _newcomer(t: Ints, known: Known, number: int, scenarios: int) -> Ints:
    """(scenarios, 1, 6) the heads of its record; nothing of it is cached."""
    sent = known.sent[number]
    room = longest_request(t) - sent[SENT_PROMPT]
    heads = np.zeros((scenarios, 1, 6), np.int64)
    for scenario in range(scenarios):
        tokens = _whole(_length(known, number, 0, scenario, scenarios), sent[SENT_MAX_TOKENS])
        heads[scenario, 0, 0] = sent[SENT_PROMPT]
        heads[scenario, 0, 1] = sent[SENT_MAX_TOKENS]
        heads[scenario, 0, 2] = min(tokens, room)
        heads[scenario, 0, 3] = sent[SENT_PRIORITY]
        heads[scenario, 0, 4] = number
    return heads


@compiled
def _length(known: Known, number: int, generated: int, scenario: int, scenarios: int) -> float:
    """Of one request in one scenario; a single scenario takes the conditional mean."""
    if scenarios == 1:
        return mean_tokens(known.lengths[number], generated)
    return total_tokens(known.lengths[number], known.levels[number, scenario], generated)


@compiled
def _whole(tokens: float, most: int) -> int:
    return min(max(round(tokens), 1), most)


@compiled
def _sum_up(s: Ints, numbers: Ints, who: Ints, coming: Ints, known: Known, load: Ints) -> None:
    """The counters of one engine, as ``predictor.scene`` has them."""
    prompt_left = output_left = 0
    for r in range(who.size):
        generated = numbers[columns.GENERATED, r]
        behind = numbers[columns.PROMPT, r] + generated - 1 - numbers[columns.COMPUTED, r]
        prompt_left += max(behind, 0)
        whole = _whole(mean_tokens(known.lengths[who[r]], generated), numbers[columns.MAX_TOKENS, r])
        output_left += whole - generated
    for r in range(coming.size):
        sent = known.sent[coming[r]]
        prompt_left += sent[SENT_PROMPT]
        output_left += _whole(mean_tokens(known.lengths[coming[r]], 0), sent[SENT_MAX_TOKENS])
    load[LOAD_RUNNING] = s[layout.RUNNING_COUNT]
    load[LOAD_WAITING] = who.size - s[layout.RUNNING_COUNT]
    load[LOAD_COMMITTED] = coming.size
    load[LOAD_FREE_BLOCKS] = s[layout.FREE_BLOCKS]
    load[LOAD_TOTAL_BLOCKS] = s[layout.TOTAL_BLOCKS]
    load[LOAD_WAITING_PROMPT_TOKENS] = prompt_left
    load[LOAD_UNPROCESSED_TOKENS] = prompt_left + output_left
