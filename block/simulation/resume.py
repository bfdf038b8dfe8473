"""From an ``EngineState`` to a simulation: requests mid-prefill, preempted, batches in flight.

Time in the simulation is relative to ``state.time_s``. The prefix cache's content is not part of the state:
a what-if counts the blocks that running requests hold, but foresees no new hits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation import layout
from block.simulation.engine import SimulatedRequest, build, check_limits, write_arrivals
from block.simulation.memory import Memory
from block.types import Arrival, EngineState, RequestState, RequestStatus


@dataclass(frozen=True, slots=True)
class Resumed:
    """A simulation that continues a state, and which request each row is."""

    memory: Memory
    ids: tuple[str, ...]
    """Row -> request id: running, waiting, then those still to arrive."""


def resume(
    state: EngineState,
    latency: KernelLatency,
    output_tokens: Mapping[str, int],
    arrivals: Sequence[Arrival] = (),
    spare: int = 0,
) -> Resumed:
    """A simulation that continues ``state`` when ``arrivals`` follow.

    ``output_tokens`` says where responses end, by request id; those not in it end at their max_tokens.
    ``spare`` records are left empty at the end. Raises StateError for a state that contradicts itself.
    """
    check_state(state)
    present = (*state.running, *state.waiting)
    limits = replace(state.limits, prefix_caching=False)
    requests = [_simulated(request, output_tokens, state.time_s) for request in present]
    requests += [_arriving(arrival, state.time_s) for arrival in arrivals]
    memory = build(limits, latency, requests, spare)
    later = range(len(present), len(requests))
    write_arrivals(memory, sorted(later, key=lambda row: requests[row].arrival_s))
    _place(memory, state)
    _put_batches_in_flight(memory, state, latency)
    return Resumed(memory, tuple(request.id for request in requests))


def check_state(state: EngineState) -> None:
    """Raise StateError naming the field that cannot be."""
    check_limits(state.limits)
    if not math.isfinite(state.time_s):
        raise StateError(f"time_s = {state.time_s}: must be a time in seconds")
    if not 0 <= state.free_blocks <= state.limits.total_blocks:
        raise StateError(f"free_blocks = {state.free_blocks}: not within 0..{state.limits.total_blocks}")
    if len(state.in_flight) > 2:
        raise StateError(f"in_flight: {len(state.in_flight)} steps, at most 2 can be")
    for request in (*state.running, *state.waiting):
        _check_request(request)


def _check_request(request: RequestState) -> None:
    if not math.isfinite(request.arrival_s):
        raise StateError(f"request {request.id}: arrival_s = {request.arrival_s}: must be a time in seconds")
    for name in ("prompt_tokens", "max_tokens"):
        if getattr(request, name) < 1:
            raise StateError(f"request {request.id}: {name} = {getattr(request, name)}: must be at least 1")
    for name in ("computed_tokens", "generated_tokens", "in_flight_tokens", "output_placeholders"):
        if getattr(request, name) < 0:
            raise StateError(f"request {request.id}: {name} = {getattr(request, name)}: is negative")
    if request.newest_tokens > request.in_flight_tokens:
        raise StateError(f"request {request.id}: newest_tokens exceed in_flight_tokens")
    if request.computed_tokens > request.total_tokens - 1 + request.in_flight_tokens:
        raise StateError(
            f"request {request.id}: computed_tokens = {request.computed_tokens}: "
            f"more than its {request.total_tokens} tokens allow with {request.in_flight_tokens} in flight"
        )


def _simulated(request: RequestState, output_tokens: Mapping[str, int], origin_s: float) -> SimulatedRequest:
    expected = output_tokens.get(request.id, request.max_tokens)
    at_least = request.generated_tokens + 1
    return SimulatedRequest(
        id=request.id,
        arrival_s=request.arrival_s - origin_s,
        prompt_tokens=request.prompt_tokens,
        output_tokens=max(min(expected, request.max_tokens), at_least),
        max_tokens=max(request.max_tokens, at_least),
        priority=request.priority,
    )


def _arriving(arrival: Arrival, origin_s: float) -> SimulatedRequest:
    return SimulatedRequest(
        id=arrival.id,
        arrival_s=arrival.arrival_s - origin_s,
        prompt_tokens=arrival.prompt_tokens,
        output_tokens=arrival.output_tokens,
        max_tokens=max(arrival.max_tokens, arrival.output_tokens),
        priority=arrival.priority,
    )


def _place(memory: Memory, state: EngineState) -> None:
    """Put the state's requests into the queues, in the engine's order."""
    for record, request in zip(memory.requests, (*state.running, *state.waiting), strict=False):
        preempted = request.status == RequestStatus.PREEMPTED
        record[layout.COMPUTED] = request.computed_tokens
        record[layout.GENERATED] = request.generated_tokens
        record[layout.PLACEHOLDERS] = request.output_placeholders
        record[layout.IN_FLIGHT] = request.in_flight_tokens
        record[layout.STALE] = request.in_flight_tokens if preempted else 0
        record[layout.STATUS] = layout.PREEMPTED if preempted else layout.WAITING
    s, count, present = memory.s, len(state.running), len(state.running) + len(state.waiting)
    positions = s[layout.RECORDS] + np.arange(present) * layout.RECORD
    running = memory.requests[:count]
    running[:, layout.STATUS] = layout.RUNNING
    running[:, layout.BLOCKS] = -(-running[:, layout.COMPUTED] // state.limits.block_size)
    _share_hits(memory, state)
    s[s[layout.RUNNING_QUEUE] : s[layout.RUNNING_QUEUE] + count] = positions[:count]
    s[layout.RUNNING_COUNT] = count
    s[layout.WAITING_TAIL] = s[layout.WAITING_HEAD] + len(state.waiting)
    s[s[layout.WAITING_HEAD] : s[layout.WAITING_TAIL]] = positions[count:]
    s[layout.UNFINISHED] = present
    s[layout.FREE_BLOCKS] = state.free_blocks


def _share_hits(memory: Memory, state: EngineState) -> None:
    """Blocks that several requests hold are freed by the last: the excess is borrowed from cache hits."""
    held = int(memory.requests[: len(state.running), layout.BLOCKS].sum())
    excess = held - (state.limits.total_blocks - state.free_blocks)
    for record, request in zip(memory.requests, state.running, strict=False):
        borrowed = min(max(excess, 0), request.cached_tokens // state.limits.block_size)
        record[layout.BORROWED] = borrowed
        excess -= borrowed
    if excess > 0:
        raise StateError(f"free_blocks = {state.free_blocks}: running requests hold {excess} blocks more")


def _put_batches_in_flight(memory: Memory, state: EngineState, latency: KernelLatency) -> None:
    """Seat the in-flight steps' requests so that their output is applied when they end."""
    end_s = 0.0
    count = len(state.in_flight)
    memory.s[layout.STEPS] = memory.s[layout.BATCHES] = count
    for slot, step in enumerate(state.in_flight):
        submit_s = step.submit_s - state.time_s
        start_s = max(end_s, submit_s) if slot else submit_s
        end_s = max(start_s + latency.seconds(step.shape), 0.0)
        memory.f[layout.BATCH_START + slot] = start_s
        memory.f[layout.BATCH_END + slot] = end_s
    memory.f[layout.GPU_FREE] = end_s
    for row, request in enumerate((*state.running, *state.waiting)):
        if request.in_flight_tokens > 0:
            _seat(memory, memory.position(row), request, count)


def _seat(memory: Memory, position: int, request: RequestState, count: int) -> None:
    if count == 0:
        raise StateError(f"request {request.id}: in_flight_tokens without a step in flight")
    newest = request.newest_tokens if count > 1 else request.in_flight_tokens
    older = request.in_flight_tokens - newest
    stale = request.status == RequestStatus.PREEMPTED
    promised = request.output_placeholders
    # Asynchronous scheduling counts a token as promised once its step is scheduled.
    complete = promised > 0 if memory.s[layout.ASYNC] else request.computed_tokens >= request.total_tokens
    emits_newest = newest > 0 and (stale or complete)
    emits_older = older > 0 and (stale or promised > int(emits_newest))
    if older > 0:
        _sit(memory, count - 2, (position, older, emits_older))
    if newest > 0:
        _sit(memory, count - 1, (position, newest, emits_newest))


def _sit(memory: Memory, slot: int, seat: tuple[int, int, bool]) -> None:
    facts = memory.batch_facts(slot)
    memory.seats(slot)[:, facts[layout.LENGTH]] = seat
    facts[layout.LENGTH] += 1
