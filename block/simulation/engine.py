"""One vLLM engine in virtual time: the ``EngineSimulation`` contract and its builder.

Decisions are vLLM's own (see ``kernel``); durations come from a step-latency model. Deterministic:
the same inputs give the same bytes. Knows nothing of sockets, wall clocks or where a state came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from block.errors import StateError, UnsupportedError
from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation.capture import capture
from block.simulation.loop import IDLE, PROCESSED, SCHEDULED, STUCK, advance
from block.simulation.memory import Memory, MemoryPlan
from block.simulation.run import run
from block.types import EngineLimits, EngineState


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """A request as the simulation is told of it."""

    id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    """Where the response ends."""
    max_tokens: int | None = None
    """What the engine knows of that end; None means exactly ``output_tokens``."""
    priority: int = 0
    block_hashes: tuple[int, ...] = ()
    """Equal leading hashes mean equal leading prompt blocks; the rest of a prompt is its own."""
    abort_s: float | None = None
    """When its client leaves; takes effect between two steps."""


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """One batch: what it computed, when, and what was free once its output was applied."""

    step: int
    start_s: float
    end_s: float
    scheduled: Mapping[str, int]
    preempted: tuple[str, ...]
    free_blocks: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request; times are ``nan`` for what never happened."""

    id: str
    first_token_s: float
    finish_s: float
    generated_tokens: int
    preemptions: int
    hit_tokens: int


@dataclass
class EngineSimulation:
    """An engine that starts empty and meets ``requests`` as they arrive.

    Raises StateError for requests that no such engine could hold.
    """

    limits: EngineLimits
    latency: KernelLatency
    requests: Sequence[SimulatedRequest]
    empty_step_s: float = 0.0
    """Duration of a step that preempts and computes nothing: a real engine returns from it at once."""
    memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        check_limits(self.limits)
        for request in self.requests:
            check_request(request, self.limits)
        self.memory = build(self.limits, self.latency, self.requests)
        self.memory.f[layout.EMPTY_STEP] = self.empty_step_s

    def run(self) -> None:
        """Simulate to the end; raises StateError when requests are left that can never run."""
        if run(self.memory.s, self.memory.f) == STUCK:
            raise self._stuck()

    def steps(self) -> Iterator[SimulatedStep]:
        """Simulate to the end, yielding each step once its output has been applied."""
        pending: list[SimulatedStep] = []
        while (outcome := advance(self.memory.s, self.memory.f)) > STUCK:
            if outcome == SCHEDULED:
                pending.append(self._newest_step())
            elif outcome == PROCESSED:
                step = pending.pop(0)
                yield SimulatedStep(
                    step.step, step.start_s, step.end_s, step.scheduled, step.preempted, self.free_blocks
                )
        if outcome != IDLE:
            raise self._stuck()

    @property
    def free_blocks(self) -> int:
        """Free KV blocks now."""
        return int(self.memory.s[layout.FREE_BLOCKS])

    @property
    def finished_count(self) -> int:
        """Requests that have ended, aborted ones included."""
        return int((self.memory.requests[:, layout.STATUS] >= layout.FINISHED).sum())

    @property
    def step_count(self) -> int:
        """Steps scheduled so far."""
        return int(self.memory.s[layout.STEPS])

    def state(self) -> EngineState:
        """What the feed of such an engine would show now."""
        return capture(self.memory, [request.id for request in self.requests], self.limits)

    def outcomes(self) -> list[Outcome]:
        """One per request, in the order given."""
        rows, times = self.memory.requests, self.memory.times
        return [
            Outcome(
                request.id,
                float(times[r, layout.FIRST_TOKEN]),
                float(times[r, layout.FINISH]),
                int(rows[r, layout.GENERATED]),
                int(rows[r, layout.PREEMPTIONS]),
                int(rows[r, layout.HIT_TOKENS]),
            )
            for r, request in enumerate(self.requests)
        ]

    def _newest_step(self) -> SimulatedStep:
        slot = (self.step_count - 1) % 2
        scheduled = self.memory.scheduled(slot)
        return SimulatedStep(
            step=self.step_count - 1,
            start_s=float(self.memory.f[layout.BATCH_START + slot]),
            end_s=float(self.memory.f[layout.BATCH_END + slot]),
            scheduled={self.requests[r].id: tokens for r, tokens in scheduled.items()},
            preempted=tuple(self.requests[r].id for r in self.memory.preempted),
            free_blocks=self.free_blocks,
        )

    def _stuck(self) -> StateError:
        stuck = [*self.memory.waiting, *self.memory.running]
        return StateError(
            f"request {self.requests[stuck[0]].id}: can never be scheduled: its tokens do not fit into "
            f"{self.limits.total_blocks} blocks of {self.limits.block_size}; give the engine more blocks"
        )


def check_limits(limits: EngineLimits) -> None:
    """Refuse limits that contradict themselves or that the simulation does not follow."""
    positive = ("block_size", "total_blocks", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
    for name in positive:
        if getattr(limits, name) < 1:
            raise StateError(f"limits.{name} = {getattr(limits, name)}: must be at least 1")
    if limits.max_num_batched_tokens < limits.max_num_seqs:
        raise StateError(
            f"limits.max_num_batched_tokens = {limits.max_num_batched_tokens}: must reach max_num_seqs = "
            f"{limits.max_num_seqs}, as vLLM demands"
        )
    if not limits.chunked_prefill and limits.max_num_batched_tokens < limits.max_model_len:
        raise StateError(
            f"limits.max_num_batched_tokens = {limits.max_num_batched_tokens}: without chunked prefill it "
            f"must reach max_model_len = {limits.max_model_len}"
        )
    if limits.policy not in ("fcfs", "priority"):
        raise UnsupportedError(f"limits.policy = {limits.policy!r}: known are fcfs and priority")


def check_request(request: SimulatedRequest, limits: EngineLimits) -> None:
    """Refuse a request that contradicts itself or that the engine can never finish."""
    if not math.isfinite(request.arrival_s):
        raise StateError(f"request {request.id}: arrival_s = {request.arrival_s}: must be a time in seconds")
    if request.prompt_tokens < 1 or request.output_tokens < 1:
        raise StateError(f"request {request.id}: prompt_tokens and output_tokens must be at least 1")
    if request.prompt_tokens >= limits.max_model_len:
        raise StateError(
            f"request {request.id}: prompt_tokens = {request.prompt_tokens} leaves no room for a "
            f"response within max_model_len = {limits.max_model_len}; shorten it or raise max_model_len"
        )
    if request.max_tokens is not None and request.max_tokens < request.output_tokens:
        raise StateError(f"request {request.id}: output_tokens exceed max_tokens = {request.max_tokens}")
    if request.abort_s is not None and not request.abort_s >= request.arrival_s:
        raise StateError(f"request {request.id}: abort_s = {request.abort_s}: must not precede arrival_s")
    need = -(-_last_computed(request, limits) // limits.block_size)
    if need > limits.total_blocks:
        raise StateError(
            f"request {request.id}: can never be scheduled to its end: its prompt_tokens = "
            f"{request.prompt_tokens} and output_tokens = {request.output_tokens} need {need} blocks of "
            f"{limits.block_size}, the engine has {limits.total_blocks}; give it more blocks"
        )


def _last_computed(request: SimulatedRequest, limits: EngineLimits) -> int:
    """Tokens with KV when the response ends; its last token is never computed."""
    return min(request.prompt_tokens + request.output_tokens, limits.max_model_len) - 1


def build(
    limits: EngineLimits, latency: KernelLatency, requests: Sequence[SimulatedRequest], spare: int = 0
) -> Memory:
    """Lay out ``requests`` that all still have to arrive, and ``spare`` empty records after them."""
    shared = _intern_hashes(requests, limits)
    tables = [_table_length(request, limits) for request in requests]
    plan = MemoryPlan(
        limits=limits,
        latency=latency,
        count=len(requests) + spare,
        shared_hashes=1 + max((key for chain in shared for key in chain), default=-1),
        shared_entries=sum(map(len, shared)),
        table_entries=sum(tables),
    )
    memory = plan.allocate()
    _write_requests(memory, requests, limits)
    if limits.prefix_caching:
        _write_hashes(memory, shared, tables, plan.shared_hashes)
    arrivals = np.argsort(memory.times[: len(requests), layout.ARRIVAL], kind="stable")
    write_arrivals(memory, [int(row) for row in arrivals])
    _write_aborts(memory, requests)
    return memory


def write_arrivals(memory: Memory, rows: Sequence[int]) -> None:
    """The requests still to arrive, in order of arrival."""
    first = memory.s[layout.NEXT_ARRIVAL]
    memory.s[first : first + len(rows)] = [memory.position(row) for row in rows]
    memory.s[layout.LAST_ARRIVAL] = first + len(rows)


def _write_aborts(memory: Memory, requests: Sequence[SimulatedRequest]) -> None:
    leaving = [row for row, request in enumerate(requests) if request.abort_s is not None]
    memory.times[leaving, layout.ABORT] = [requests[row].abort_s for row in leaving]
    leaving.sort(key=lambda row: requests[row].abort_s or 0.0)
    first = memory.s[layout.NEXT_ABORT]
    memory.s[first : first + len(leaving)] = [memory.position(row) for row in leaving]
    memory.s[layout.LAST_ABORT] = first + len(leaving)


def _write_requests(memory: Memory, requests: Sequence[SimulatedRequest], limits: EngineLimits) -> None:
    if not requests:
        return
    ranks = {name: rank for rank, name in enumerate(sorted(request.id for request in requests))}
    columns = np.array(
        [
            (
                request.prompt_tokens,
                request.max_tokens or request.output_tokens,
                min(request.output_tokens, limits.max_model_len - request.prompt_tokens),
                request.priority,
                ranks[request.id],
            )
            for request in requests
        ]
    )
    memory.requests[: len(requests), layout.PROMPT : layout.RANK + 1] = columns
    memory.times[: len(requests), layout.ARRIVAL] = [request.arrival_s for request in requests]


def _write_hashes(memory: Memory, shared: list[list[int]], tables: list[int], own: int) -> None:
    entry, table = int(memory.s[layout.SHARED]), int(memory.s[layout.TABLES])
    for record, chain, length in zip(memory.requests, shared, tables, strict=False):
        record[layout.SHARED_HASHES] = len(chain)
        record[layout.HASHES_AT] = entry
        record[layout.OWN_HASH] = own
        record[layout.TABLE_AT] = table
        memory.s[entry : entry + len(chain)] = chain
        entry, table, own = entry + len(chain), table + length, own + length


def _table_length(request: SimulatedRequest, limits: EngineLimits) -> int:
    """Most blocks the request can ever hold; 0 where blocks are only counted."""
    if not limits.prefix_caching:
        return 0
    tokens = min(request.prompt_tokens + request.output_tokens, limits.max_model_len)
    return -(-tokens // limits.block_size) + 1


def _intern_hashes(requests: Sequence[SimulatedRequest], limits: EngineLimits) -> list[list[int]]:
    """Dense ids of each request's shared leading blocks; equal ids mean equal prefixes up to there."""
    if not limits.prefix_caching:
        return [[] for _ in requests]
    known: dict[tuple[int, int], int] = {}
    interned = []
    for request in requests:
        full = request.prompt_tokens // limits.block_size
        chain: list[int] = []
        for key in request.block_hashes[:full]:
            chain.append(known.setdefault((chain[-1] if chain else -1, key), len(known)))
        interned.append(chain)
    return interned
