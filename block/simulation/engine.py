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
from block.simulation import arrays as rows
from block.simulation.arrays import Arrays
from block.simulation.capture import capture
from block.simulation.loop import IDLE, PROCESSED, SCHEDULED, STUCK, advance, run
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
    arrays: Arrays = field(init=False)

    def __post_init__(self) -> None:
        check_limits(self.limits)
        for request in self.requests:
            _check_request(request, self.limits)
        self.arrays = build(self.limits, self.latency, self.requests)

    def run(self) -> None:
        """Simulate to the end; raises StateError when requests are left that can never run."""
        if run(self.arrays) == STUCK:
            raise self._stuck()

    def steps(self) -> Iterator[SimulatedStep]:
        """Simulate to the end, yielding each step once its output has been applied."""
        pending: list[SimulatedStep] = []
        while (outcome := advance(self.arrays)) > STUCK:
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
        return int(self.arrays.counters[rows.FREE_BLOCKS])

    @property
    def step_count(self) -> int:
        """Steps scheduled so far."""
        return int(self.arrays.counters[rows.STEPS])

    def state(self) -> EngineState:
        """What the feed of such an engine would show now."""
        return capture(self.arrays, [request.id for request in self.requests], self.limits)

    def outcomes(self) -> list[Outcome]:
        """One per request, in the order given."""
        a = self.arrays
        return [
            Outcome(
                request.id,
                float(a.times[rows.FIRST_TOKEN, r]),
                float(a.times[rows.FINISH, r]),
                int(a.requests[rows.GENERATED, r]),
                int(a.requests[rows.PREEMPTIONS, r]),
                int(a.requests[rows.HIT_TOKENS, r]),
            )
            for r, request in enumerate(self.requests)
        ]

    def _newest_step(self) -> SimulatedStep:
        a = self.arrays
        slot = (self.step_count - 1) % 2
        length = a.batch_facts[rows.LENGTH, slot]
        return SimulatedStep(
            step=self.step_count - 1,
            start_s=float(a.batch_starts[slot]),
            end_s=float(a.batch_ends[slot]),
            scheduled={
                self.requests[r].id: int(tokens)
                for r, tokens in zip(
                    a.batch_requests[slot, :length], a.batch_tokens[slot, :length], strict=True
                )
            },
            preempted=tuple(self.requests[r].id for r in a.preempted[: a.counters[rows.STEP_PREEMPTED]]),
            free_blocks=self.free_blocks,
        )

    def _stuck(self) -> StateError:
        a = self.arrays
        head = self.requests[int(a.waiting[a.counters[rows.WAITING_HEAD]])]
        return StateError(
            f"request {head.id}: can never be scheduled: its tokens do not fit into "
            f"{self.limits.total_blocks} blocks of {self.limits.block_size}; give the engine more blocks"
        )


def check_limits(limits: EngineLimits) -> None:
    """Refuse limits that contradict themselves or that the simulation does not follow."""
    positive = ("block_size", "total_blocks", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
    for name in positive:
        if getattr(limits, name) < 1:
            raise StateError(f"limits.{name} = {getattr(limits, name)}: must be at least 1")
    if limits.policy not in ("fcfs", "priority"):
        raise UnsupportedError(f"limits.policy = {limits.policy!r}: known are fcfs and priority")


def _check_request(request: SimulatedRequest, limits: EngineLimits) -> None:
    if not math.isfinite(request.arrival_s):
        raise StateError(f"request {request.id}: arrival_s = {request.arrival_s}: must be a time in seconds")
    if request.prompt_tokens < 1 or request.output_tokens < 1:
        raise StateError(f"request {request.id}: prompt_tokens and output_tokens must be at least 1")
    if request.prompt_tokens >= limits.max_model_len:
        raise StateError(
            f"request {request.id}: prompt_tokens = {request.prompt_tokens} leaves no room for a "
            f"response within max_model_len = {limits.max_model_len}"
        )
    if request.max_tokens is not None and request.max_tokens < request.output_tokens:
        raise StateError(f"request {request.id}: output_tokens exceed max_tokens = {request.max_tokens}")


def build(
    limits: EngineLimits, latency: KernelLatency, requests: Sequence[SimulatedRequest], spare: int = 0
) -> Arrays:
    """Allocate the arrays for ``requests`` that all still have to arrive, plus ``spare`` columns."""
    n = len(requests) + spare
    table = np.zeros((rows.REQUEST_ROWS, n), np.int64)
    times = np.full((rows.TIME_ROWS, n), np.nan)
    shared = _intern_hashes(requests, limits)
    _fill_requests(table, times, requests, shared, limits)
    arrivals = np.argsort(times[rows.ARRIVAL, : len(requests)], kind="stable").astype(np.int64)
    seats = max(1, min(n, limits.max_num_seqs))
    pool = _block_pool(table, limits, sum(len(ids) for ids in shared))
    return Arrays(
        limits=_limit_entries(limits),
        counters=_fresh_counters(limits, n),
        clock=np.zeros(rows.CLOCKS),
        requests=table,
        times=times,
        arrivals=arrivals,
        running=np.zeros(n + 1, np.int64),
        waiting=np.zeros(3 * n + 2, np.int64),
        preempted=np.zeros(n + 1, np.int64),
        batch_facts=np.zeros((rows.BATCH_FACTS, rows.SLOTS), np.int64),
        batch_starts=np.zeros(rows.SLOTS),
        batch_ends=np.zeros(rows.SLOTS),
        batch_requests=np.zeros((rows.SLOTS, seats), np.int64),
        batch_tokens=np.zeros((rows.SLOTS, seats), np.int64),
        batch_emits=np.zeros((rows.SLOTS, seats), np.int64),
        knots=np.array(latency.token_knots),
        seconds=np.array(latency.token_seconds),
        slopes=np.array((latency.per_context_token_s, latency.per_prefill_product_s, latency.per_request_s)),
        hashes=np.array([key for ids in shared for key in ids] or [0], np.int64),
        **pool,
    )


def _limit_entries(limits: EngineLimits) -> rows.Ints:
    entries = np.zeros(rows.LIMITS, np.int64)
    entries[rows.BLOCK_SIZE] = limits.block_size
    entries[rows.MAX_SEQS] = limits.max_num_seqs
    entries[rows.MAX_BATCHED] = limits.max_num_batched_tokens
    entries[rows.MAX_MODEL_LEN] = limits.max_model_len
    entries[rows.LONG_PREFILL] = limits.long_prefill_token_threshold
    entries[rows.CHUNKED] = limits.chunked_prefill
    entries[rows.CACHING] = limits.prefix_caching
    entries[rows.BY_PRIORITY] = limits.policy == "priority"
    entries[rows.ASYNC] = limits.async_scheduling
    entries[rows.WATERMARK] = limits.watermark_blocks
    entries[rows.RESERVE_PROMPT] = limits.reserve_full_prompt
    entries[rows.TOTAL_BLOCKS] = limits.total_blocks
    return entries


def _fresh_counters(limits: EngineLimits, n: int) -> rows.Ints:
    counters = np.zeros(rows.COUNTERS, np.int64)
    counters[rows.FREE_BLOCKS] = limits.total_blocks
    # Preempted requests go to the front: room for every one that ever ran.
    counters[rows.WAITING_HEAD] = counters[rows.WAITING_TAIL] = n + 1
    return counters


def _fill_requests(
    table: rows.Ints,
    times: rows.Floats,
    requests: Sequence[SimulatedRequest],
    shared: list[list[int]],
    limits: EngineLimits,
) -> None:
    ranks = {name: rank for rank, name in enumerate(sorted(request.id for request in requests))}
    hashes_at = 0
    for r, request in enumerate(requests):
        room = limits.max_model_len - request.prompt_tokens
        table[rows.PROMPT, r] = request.prompt_tokens
        table[rows.MAX_TOKENS, r] = request.max_tokens or request.output_tokens
        table[rows.STOP_TOKENS, r] = min(request.output_tokens, room)
        table[rows.PRIORITY, r] = request.priority
        table[rows.RANK, r] = ranks[request.id]
        table[rows.STATUS, r] = rows.FUTURE
        table[rows.SHARED_HASHES, r] = len(shared[r])
        table[rows.HASHES_AT, r] = hashes_at
        times[rows.ARRIVAL, r] = request.arrival_s
        hashes_at += len(shared[r])


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


def _block_pool(table: rows.Ints, limits: EngineLimits, shared: int) -> dict[str, rows.Ints]:
    """The block pool's arrays; tiny when prefix caching is off, where blocks are only counted."""
    count = limits.total_blocks if limits.prefix_caching else 0
    most = 0
    if limits.prefix_caching:
        tokens = np.minimum(table[rows.PROMPT] + table[rows.STOP_TOKENS], limits.max_model_len)
        blocks = -(-tokens // limits.block_size) + 1
        table[rows.TABLE_AT] = np.cumsum(blocks) - blocks
        table[rows.OWN_HASH] = shared + table[rows.TABLE_AT]
        most = int(blocks.sum())
    # The queue runs from sentinel ``count`` through all blocks to sentinel ``count + 1``.
    following = np.arange(1, count + 3, dtype=np.int64)
    previous = np.arange(-1, count + 1, dtype=np.int64)
    following[count], previous[0] = (0, count) if count else (count + 1, count)
    if count:
        following[count - 1], previous[count + 1] = count + 1, count - 1
    return {
        "tables": np.zeros(most + 1, np.int64),
        "block_references": np.zeros(count, np.int64),
        "block_hash": np.full(count, -1, np.int64),
        "free_next": following,
        "free_previous": previous,
        "hash_first": np.full(shared + most + 1, -1, np.int64),
        "hash_last": np.full(shared + most + 1, -1, np.int64),
        "same_next": np.full(count, -1, np.int64),
        "same_previous": np.full(count, -1, np.int64),
    }
