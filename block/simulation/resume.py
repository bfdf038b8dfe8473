"""From an engine's state to a simulation: requests mid-prefill, preempted, batches in flight.

Time in the simulation is relative to the state's ``time_s``. The prefix cache's content is not part of the
state: a what-if counts the blocks that running requests hold, and the hits that arrivals are said to have;
it foresees no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation import columns as fields
from block.simulation import layout, placing
from block.simulation.columns import EngineColumns
from block.simulation.engine import check_limits, write_arrivals
from block.simulation.memory import Ints, Memory, MemoryPlan
from block.types import Arrival, EngineLimits, EngineState

_FAULTS = {
    placing.BAD_ARRIVAL: "arrival_s = {0.arrival_s}: must be a time in seconds",
    placing.BAD_PROMPT: "prompt_tokens = {0.prompt_tokens}: must be at least 1",
    placing.BAD_MAX_TOKENS: "max_tokens = {0.max_tokens}: must be at least 1",
    placing.NEWEST_EXCEED: "newest_tokens exceed in_flight_tokens",
    placing.COMPUTED_EXCEED: "computed_tokens = {0.computed_tokens}: "
    "more than its {0.total_tokens} tokens allow with {0.in_flight_tokens} in flight",
    placing.NO_STEP: "in_flight_tokens without a step in flight",
    placing.ENDLESS: "can never come to its end: {1} tokens are the most on this engine, its prompt_tokens = "
    "{0.prompt_tokens} and generated_tokens = {0.generated_tokens} leave no room for another",
} | {placing.NEGATIVE + row: f"{name} = {{0.{name}}}: is negative" for row, name in enumerate(fields.FIELDS)}


@dataclass(frozen=True, slots=True)
class Resumed:
    """A simulation that continues a state, and which request each row is."""

    memory: Memory
    ids: tuple[str, ...]
    """Row -> request id: running, waiting, then those still to arrive."""
    longest: int
    """Prompt and response tokens of the longest request that can come to its end."""


def resume(
    state: EngineState | EngineColumns,
    latency: KernelLatency,
    output_tokens: Mapping[str, int],
    arrivals: Sequence[Arrival] = (),
    spare: int = 0,
) -> Resumed:
    """A simulation that continues ``state`` when ``arrivals`` follow.

    ``output_tokens`` says where responses end, by request id; those not in it end at their max_tokens.
    ``spare`` records are left empty at the end. Raises StateError for a state that contradicts itself.
    """
    columns = state if isinstance(state, EngineColumns) else EngineColumns.of(state)
    longest = check_columns(columns)
    memory = _allocate(columns, latency, len(columns.ids) + len(arrivals) + spare)
    stops = columns.numbers[fields.MAX_TOKENS]
    if output_tokens:
        named = zip(columns.ids, stops.tolist(), strict=True)
        stops = np.array([output_tokens.get(name, most) for name, most in named], np.int64)
    ids = (*columns.ids, *(arrival.id for arrival in arrivals))
    _place(memory, columns, stops, longest)
    if arrivals:
        _announce(memory, columns, arrivals, longest)
    if columns.limits.policy == "priority":
        memory.requests[: len(ids), layout.RANK] = _ranks(ids)
    _put_batches_in_flight(memory, columns, latency)
    return Resumed(memory, ids, longest)


def likely_hits(arrival: Arrival, limits: EngineLimits) -> int:
    """Blocks that the prefix cache will save: whole ones, and never the prompt's last token."""
    if not limits.prefix_caching:
        return 0
    return max(min(arrival.cached_tokens, arrival.prompt_tokens - 1), 0) // limits.block_size


def longest_request(columns: EngineColumns) -> int:
    """Prompt and response tokens of the longest request that can come to its end; its last needs no block.

    Beyond that vLLM would preempt a request that runs alone, and start it again, for ever.
    """
    if columns.longest:
        return columns.longest
    limits, computed = columns.limits, columns.numbers[fields.COMPUTED, : columns.running]
    held = int((-(-computed // limits.block_size)).sum())
    blocks = min(columns.free_blocks + held, limits.total_blocks)
    return min(limits.max_model_len, blocks * limits.block_size + 1)


def check_arrival(arrival: Arrival, longest: int) -> None:
    """Raises StateError for an arrival that an engine with room for ``longest`` tokens could never serve."""
    for name in ("prompt_tokens", "output_tokens", "max_tokens"):
        if getattr(arrival, name) < 1:
            raise StateError(f"request {arrival.id}: {name} = {getattr(arrival, name)}: must be at least 1")
    if arrival.prompt_tokens >= longest:
        raise StateError(
            f"request {arrival.id}: prompt_tokens = {arrival.prompt_tokens}: can never be served, "
            f"as this engine has room for {longest} tokens, response included"
        )


def check_state(state: EngineState) -> None:
    """Raise StateError naming the field that cannot be."""
    check_columns(EngineColumns.of(state))


def check_columns(columns: EngineColumns) -> int:
    """As ``check_state``; returns ``longest_request``. What was found sound is not looked at again."""
    if columns.longest:
        return columns.longest
    check_limits(columns.limits)
    if not math.isfinite(columns.time_s):
        raise StateError(f"time_s = {columns.time_s}: must be a time in seconds")
    if not 0 <= columns.free_blocks <= columns.limits.total_blocks:
        raise StateError(f"free_blocks = {columns.free_blocks}: not within 0..{columns.limits.total_blocks}")
    if len(columns.in_flight) > 2:
        raise StateError(f"in_flight: {len(columns.in_flight)} steps, at most 2 can be")
    batches, longest = len(columns.in_flight), longest_request(columns)
    row, fault = placing.first_fault(columns.numbers, columns.arrival_s, batches, longest)
    if fault != placing.NO_FAULT:
        reason = _FAULTS[fault].format(columns.request(row), longest)
        raise StateError(f"request {columns.ids[row]}: {reason}")
    _check_blocks(columns)
    _check_seats(columns)
    return longest


def _check_blocks(columns: EngineColumns) -> None:
    """Running requests hold no more blocks than are in use; with prefix caching they may share them."""
    limits, used = columns.limits, columns.limits.total_blocks - columns.free_blocks
    held = -(-columns.numbers[fields.COMPUTED, : columns.running] // limits.block_size)
    excess = int(held.max(initial=0) if limits.prefix_caching else held.sum()) - used
    if excess > 0:
        raise StateError(
            f"free_blocks = {columns.free_blocks}: running requests hold {excess} blocks more than are in use"
        )


def _check_seats(columns: EngineColumns) -> None:
    """Each step in flight has at most as many requests as the engine computes at once."""
    batches, most = len(columns.in_flight), columns.limits.max_num_seqs
    in_flight, newest = columns.numbers[fields.IN_FLIGHT], columns.numbers[fields.NEWEST]
    seated = (in_flight,) if batches < 2 else (newest, in_flight - newest)
    for tokens in seated:
        rows = np.flatnonzero(tokens)
        if len(rows) > most:
            raise StateError(
                f"request {columns.ids[rows[most]]}: in_flight_tokens, but the step in flight already has "
                f"max_num_seqs = {most} requests"
            )


def _allocate(columns: EngineColumns, latency: KernelLatency, count: int) -> Memory:
    return _blank(columns.limits, latency, count).copy()


@lru_cache(maxsize=16)
def _blank(limits: EngineLimits, latency: KernelLatency, count: int) -> Memory:
    """Laid out once for a number of requests: states that follow each other differ little in theirs."""
    if limits.prefix_caching:
        limits = replace(limits, prefix_caching=False)
    return MemoryPlan(limits, latency, count, shared_hashes=0, shared_entries=0, table_entries=0).allocate()


def _place(memory: Memory, columns: EngineColumns, stops: Ints, longest: int) -> None:
    """Put the state's requests into the queues, in the engine's order."""
    placing.place(memory.s, memory.f, columns.numbers, columns.arrival_s, stops, columns.time_s, longest)
    memory.s[layout.FREE_BLOCKS] = columns.free_blocks
    placing.queue_up(memory.s, columns.numbers, columns.running)


def _announce(memory: Memory, columns: EngineColumns, arrivals: Sequence[Arrival], longest: int) -> None:
    """Write the requests that are still to come, behind those that are there."""
    first = len(columns.ids)
    for arrival in arrivals:
        check_arrival(arrival, longest)
    memory.requests[first : first + len(arrivals), layout.PROMPT : layout.LIKELY_HITS + 1] = [
        (
            arrival.prompt_tokens,
            max(arrival.max_tokens, arrival.output_tokens),
            min(arrival.output_tokens, longest - arrival.prompt_tokens),
            arrival.priority,
            0,
            likely_hits(arrival, columns.limits),
        )
        for arrival in arrivals
    ]
    times = [arrival.arrival_s - columns.time_s for arrival in arrivals]
    memory.times[first : first + len(arrivals), layout.ARRIVAL] = times
    order = sorted(range(len(arrivals)), key=times.__getitem__)
    write_arrivals(memory, [first + index for index in order])


def _ranks(ids: Sequence[str]) -> list[int]:
    """Each request's place among the sorted ids."""
    ranks = {name: rank for rank, name in enumerate(sorted(ids))}
    return [ranks[name] for name in ids]


def _put_batches_in_flight(memory: Memory, columns: EngineColumns, latency: KernelLatency) -> None:
    """Steps that are under way end as their shape says; their requests are seated in them."""
    end_s, count = 0.0, len(columns.in_flight)
    memory.s[layout.STEPS] = memory.s[layout.BATCHES] = count
    for slot, step in enumerate(columns.in_flight):
        submit_s = step.submit_s - columns.time_s
        start_s = max(end_s, submit_s) if slot else submit_s
        # A step that only preempts is over as soon as it starts; the others have not ended yet.
        end_s = max(start_s + latency.seconds(step.shape), 0.0) if step.shape.tokens else start_s
        memory.f[layout.BATCH_START + slot] = start_s
        memory.f[layout.BATCH_END + slot] = end_s
    memory.f[layout.GPU_FREE] = end_s
    placing.seat(memory.s, columns.numbers)
