"""Many engines on one clock: requests are sent to them one by one, and questions put to their predictors.

The engines run in virtual time, each only as far as the world around them has come. Deterministic: the same
calls give the same bytes. Knows nothing of routers: who is asked and who gets a request is decided outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from block.errors import StateError
from block.latency.base import KernelLatency
from block.lengths import scenario_levels_of
from block.simulation import layout
from block.simulation.capture import capture
from block.simulation.expectation import MOST
from block.simulation.fleet_arrivals import FleetArrivals
from block.simulation.fleet_members import (
    FleetEngine,
    FleetRequests,
    check_member,
    shared_blocks,
    table_length,
)
from block.simulation.fleet_memory import FEWEST_RECORDS, keep_free, move, what_ifs
from block.simulation.length_rows import length_rows, mean_lengths
from block.simulation.memory import Floats, Ints, Memory, MemoryPlan
from block.simulation.survey import Engines, Known, survey, survey_cached, survey_loads
from block.simulation.turnover import (
    FATE_PREEMPTIONS,
    FATES,
    SENT_MAX_TOKENS,
    SENT_OUTPUT,
    SENT_PRIORITY,
    SENT_PROMPT,
    record_positions,
    run_all_until,
    send,
)
from block.types import EngineLimits, EngineState

# In the place of a sender's number.
_NOBODY = -1
_UNSENT = -2


@dataclass(frozen=True, slots=True)
class Answers:
    """What the asked predictors say, one row each."""

    figures: Floats
    """(asked, FIGURES), see ``what_if_runs``."""
    answers: Floats
    """(asked, scenarios, ENTRIES)"""
    loads: Ints
    """(asked, LOADS), see ``survey``."""


@dataclass
class EngineFleet:
    """All engines of a world, and the requests that they may get.

    Raises StateError for limits or requests that some engine could never finish.
    """

    engines: Sequence[FleetEngine]
    requests: FleetRequests
    scenarios: int = 1
    records: int = FEWEST_RECORDS
    """Requests that an engine has room for at first; more room is made when it is needed."""
    fates: Floats = field(init=False)
    """(requests, FATES), see ``turnover``; not a number for what has not happened."""
    done: Ints = field(init=False)
    """How many have ended, then their numbers."""
    expected: Ints = field(init=False)
    """(requests,) response tokens that routers expect on the mean."""

    def __post_init__(self) -> None:
        for engine in self.engines:
            check_member(engine, self.requests)
        count, requests = len(self.engines), len(self.requests)
        self.fates = np.full((requests, FATES), np.nan)
        self.fates[:, FATE_PREEMPTIONS] = 0.0
        self.done = np.zeros(requests + 1, np.int64)
        self._known = _known(self.requests, self.scenarios)
        self._shared = shared_blocks(self.engines, self.requests)
        self._next_s = np.full(count, math.inf)
        self._arrivals, self._no_arrivals = FleetArrivals(count), FleetArrivals(count)
        self.expected = self._expected_lengths()
        self._kinds = list(dict.fromkeys(engine.what_if for engine in self.engines))
        self._empty: dict[tuple[EngineLimits, KernelLatency, int], Memory] = {}
        self._make_room(max(self.records, *(engine.limits.max_num_seqs for engine in self.engines)))

    def run_until(self, time_s: float) -> None:
        """Let all engines do what they do up to that time."""
        run_all_until(
            self._engines.integers,
            self._engines.reals,
            self._next_s,
            time_s,
            self._free,
            self.fates,
            self.done,
        )

    @property
    def next_s(self) -> float:
        """When the first of the engines will do something; infinity when all are done."""
        return float(self._next_s.min())

    def send(self, number: int, engine: int, arrival_s: float) -> None:
        """Let a request reach an engine's queue; the engine must not have run beyond ``arrival_s``."""
        sent = self._known.sent[number]
        shared = self._shared[number]
        while not send(*self._row(engine), self._free[engine], number, sent, shared, arrival_s):
            self._make_room(2 * self.records)
        self._next_s[engine] = min(self._next_s[engine], arrival_s)
        self._arrivals.note(engine, arrival_s, (int(sent[SENT_PROMPT]), int(self.expected[number])))

    def tell(self, number: int, sender: int, told_s: float, cached_tokens: int = 0) -> None:
        """The predictor of the engine that a request was sent to knows of it from ``told_s`` on; questions
        of the ``sender`` tell of it before that. ``cached_tokens``: of its prompt, as the sender believes."""
        self._known.cached[number] = cached_tokens
        self._known.sender[number] = sender
        self._known.told_s[number] = told_s

    def expect_arrivals(self, engine: int, since_s: float) -> None:
        """From then on the engine's predictor counts on more arrivals like the latest."""
        self._arrivals.begin(engine, since_s)

    def ask(
        self,
        number: int,
        asked: Ints,
        now_s: float,
        *,
        asker: int = _NOBODY,
        told: bool = True,
        harm: bool = True,
        cached_tokens: Ints | None = None,
    ) -> Answers:
        """Ask the predictors of some engines what request ``number`` would meet.

        ``cached_tokens``: (asked,) of its prompt that each has cached, as who asks believes; None is nothing.
        ``told``: whether predictors know of choices under way. Without ``harm`` the delay of others is left
        out. Raises StateError where somebody would never be served to the end.
        """
        cached = np.zeros(len(asked), np.int64) if cached_tokens is None else cached_tokens
        given = (asked, cached, number, now_s, asker, told, self.scenarios, harm)
        return self._finite(Answers(*survey(self._engines, self._known, self._arrivals.seen, *given)), asked)

    def ask_hindsight(self, number: int, asked: Ints, now_s: float, lengths: Floats) -> Answers:
        """The same with ``lengths`` in place of those expected, all choices known and nobody else to come."""
        known = self._known._replace(lengths=lengths, told_s=np.minimum(self._known.told_s, now_s))
        given = (asked, self.cached(number, asked), number, now_s, _NOBODY, True, 1, False)
        return self._finite(Answers(*survey(self._engines, known, self._no_arrivals.seen, *given)), asked)

    def _finite(self, answers: Answers, asked: Ints) -> Answers:
        for engine in asked[~np.isfinite(answers.figures).all(axis=1)]:
            limits = self.engines[engine].limits
            raise StateError(
                f"engine {engine}: some request is never served to its end with {limits.total_blocks} blocks "
                f"of {limits.block_size}"
            )
        return answers

    def loads(self, asked: Ints, now_s: float, *, asker: int = _NOBODY, told: bool = True) -> Ints:
        """(asked, LOADS) counters for heuristics, without any what-if."""
        loads: Ints = survey_loads(self._engines, self._known, asked, now_s, asker, told)
        return loads

    def cached(self, number: int, asked: Ints) -> Ints:
        """(asked,) tokens of a request's prompt that each engine would find in its prefix cache now."""
        tokens: Ints = survey_cached(self._engines, asked, self._shared[number])
        return tokens

    def fail(self, engine: int) -> list[tuple[int, bool]]:
        """The engine loses all it has, at the time it has run to.

        Returns the numbers of its requests, those under way included, and whether each had a first token.
        """
        memory = self._memory(engine)
        s = memory.s
        positions = s[s[layout.NEXT_ARRIVAL] : s[layout.LAST_ARRIVAL]]
        rows = [*memory.running, *memory.waiting, *memory.rows(positions)]
        lost = [
            (int(memory.requests[row, layout.RANK]), bool(memory.requests[row, layout.GENERATED] > 0))
            for row in rows
        ]
        self.fates[[number for number, _ in lost], FATE_PREEMPTIONS] += memory.requests[
            rows, layout.PREEMPTIONS
        ]
        self._clear(engine)
        return lost

    def state(self, engine: int) -> EngineState:
        """What the engine's feed shows; requests go by their ids."""
        memory = self._memory(engine)
        ids = {
            row: self.requests.ids[memory.requests[row, layout.RANK]]
            for row in (*memory.running, *memory.waiting)
        }
        names = [ids.get(row, "") for row in range(memory.count)]
        return capture(memory, names, self.engines[engine].limits, str(engine))

    def acted_s(self, engines: Ints) -> Floats:
        """(engines,) when each last did something: what its feed shows is as of then."""
        found: Floats = self._engines.reals[engines, layout.NOW]
        return found

    def figures(self, fields: Sequence[int]) -> Ints:
        """(engines, fields) of the engines' headers, such as ``layout.FREE_BLOCKS``."""
        found: Ints = self._engines.integers[:, list(fields)]
        return found

    def waiting(self) -> Ints:
        """(engines,) requests in the waiting queues."""
        found: Ints = np.diff(self.figures((layout.WAITING_HEAD, layout.WAITING_TAIL)))[:, 0]
        return found

    @property
    def rows_of_truth(self) -> Floats:
        """Lengths for ``ask`` as they will really be."""
        return length_rows(np.array([0.5]), self.requests.output_tokens[:, None].astype(np.float64))

    def _expected_lengths(self) -> Ints:
        means = np.rint(mean_lengths(self.requests.lengths))
        whole: Ints = np.clip(means, 1, self.requests.max_tokens).astype(np.int64)
        return whole

    def _row(self, engine: int) -> tuple[Ints, Floats]:
        return self._engines.integers[engine], self._engines.reals[engine]

    def _memory(self, engine: int) -> Memory:
        empty = self._plan(engine, self.records)
        s, f = self._row(engine)
        return Memory(s[: len(empty.s)], f[: len(empty.f)], self.records)

    def _plan(self, engine: int, records: int) -> Memory:
        """An empty engine of that kind; shared, not to be written to."""
        limits, latency = self.engines[engine].limits, self.engines[engine].latency
        if (limits, latency, records) not in self._empty:
            tables = records * table_length(self.requests, limits)
            shared = (self._shared.count, records * self._shared.longest) if tables else (0, 0)
            plan = MemoryPlan(limits, latency, records, *shared, tables)
            self._empty[limits, latency, records] = plan.allocate()
        return self._empty[limits, latency, records]

    def _clear(self, engine: int) -> None:
        empty = self._plan(engine, self.records)
        s, f = self._row(engine)
        s[: len(empty.s)], f[: len(empty.f)] = empty.s, empty.f
        record_positions(s, self._free[engine])
        self._next_s[engine] = math.inf

    def _make_room(self, records: int) -> None:
        """Lay all engines out anew, for so many records each."""
        before = getattr(self, "_engines", None)
        count, plans = len(self.engines), [self._plan(i, records) for i in range(len(self.engines))]
        integers = np.zeros((count, max(len(plan.s) for plan in plans)), np.int64)
        reals = np.full((count, max(len(plan.f) for plan in plans)), np.nan)
        old_free = getattr(self, "_free", None)
        self._free = np.zeros((count, records + 1), np.int64)
        for engine, plan in enumerate(plans):
            integers[engine, : len(plan.s)], reals[engine, : len(plan.f)] = plan.s, plan.f
            record_positions(integers[engine], self._free[engine])
            if before is not None and old_free is not None:
                move(before.integers[engine], before.reals[engine], integers[engine], reals[engine])
                keep_free(old_free[engine], self._free[engine], self.records)
        self.records = records
        headers, widths, curves = what_ifs(self._kinds, 2 * records + MOST + 1)
        kinds = np.array([self._kinds.index(engine.what_if) for engine in self.engines])
        self._engines = Engines(integers, reals, kinds, headers, widths, curves)


def _known(requests: FleetRequests, scenarios: int) -> Known:
    count = len(requests)
    sent = np.empty((count, 4), np.int64)
    sent[:, SENT_PROMPT], sent[:, SENT_OUTPUT] = requests.prompt_tokens, requests.output_tokens
    sent[:, SENT_MAX_TOKENS], sent[:, SENT_PRIORITY] = requests.max_tokens, requests.priority
    levels = requests.levels
    if levels is None:
        levels = scenario_levels_of(requests.ids, scenarios)
    never = np.full(count, math.inf)
    nothing = np.zeros(count, np.int64)
    return Known(sent, requests.lengths, levels, never, np.full(count, _UNSENT), nothing)
