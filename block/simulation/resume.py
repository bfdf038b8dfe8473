"""From an ``EngineState`` to simulation arrays: requests mid-prefill, preempted, batches in flight.

Time in the arrays is relative to ``state.time_s``. The prefix cache's content is not part of the state:
a what-if counts the blocks that running requests hold, but foresees no new hits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from block.errors import StateError
from block.latency.base import KernelLatency
from block.simulation import arrays as rows
from block.simulation.arrays import Arrays
from block.simulation.engine import SimulatedRequest, build, check_limits
from block.types import Arrival, EngineState, RequestState, RequestStatus


@dataclass(frozen=True, slots=True)
class Resumed:
    """Arrays that continue a state, and which request each column is."""

    arrays: Arrays
    ids: tuple[str, ...]
    """Column -> request id: running, waiting, then those still to arrive."""


def resume(
    state: EngineState,
    latency: KernelLatency,
    output_tokens: Mapping[str, int],
    arrivals: Sequence[Arrival] = (),
    spare: int = 0,
) -> Resumed:
    """Arrays that continue ``state`` when ``arrivals`` follow.

    ``output_tokens`` says where responses end, by request id; those not in it end at their max_tokens.
    ``spare`` columns are left empty at the end. Raises StateError for a state that contradicts itself.
    """
    check_state(state)
    present = (*state.running, *state.waiting)
    limits = replace(state.limits, prefix_caching=False)
    requests = [_simulated(request, output_tokens) for request in present]
    requests += [_arriving(arrival, state.time_s) for arrival in arrivals]
    arrays = build(limits, latency, requests, spare)
    _place(arrays, state)
    _put_batches_in_flight(arrays, state, latency)
    return Resumed(
        arrays._replace(arrivals=arrays.arrivals[arrays.arrivals >= len(present)]),
        tuple(request.id for request in requests),
    )


def check_state(state: EngineState) -> None:
    """Raise StateError naming the field that cannot be."""
    check_limits(state.limits)
    if not math.isfinite(state.time_s):
        raise StateError(f"time_s = {state.time_s}: must be a time in seconds")
    if not 0 <= state.free_blocks <= state.limits.total_blocks:
        raise StateError(f"free_blocks = {state.free_blocks}: not within 0..{state.limits.total_blocks}")
    if len(state.in_flight) > rows.SLOTS:
        raise StateError(f"in_flight: {len(state.in_flight)} steps, at most {rows.SLOTS} can be")
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


def _simulated(request: RequestState, output_tokens: Mapping[str, int]) -> SimulatedRequest:
    expected = output_tokens.get(request.id, request.max_tokens)
    promised = request.generated_tokens + max(1, request.output_placeholders)
    return SimulatedRequest(
        id=request.id,
        arrival_s=request.arrival_s,
        prompt_tokens=request.prompt_tokens,
        output_tokens=min(max(expected, promised), max(request.max_tokens, promised)),
        max_tokens=max(request.max_tokens, promised),
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


def _place(a: Arrays, state: EngineState) -> None:
    """Put the state's requests into the queues, in the engine's order."""
    for r, request in enumerate((*state.running, *state.waiting)):
        column = a.requests[:, r]
        preempted = request.status == RequestStatus.PREEMPTED
        column[rows.COMPUTED] = request.computed_tokens
        column[rows.GENERATED] = request.generated_tokens
        column[rows.PLACEHOLDERS] = request.output_placeholders
        column[rows.IN_FLIGHT] = request.in_flight_tokens
        column[rows.STALE] = request.in_flight_tokens if preempted else 0
        column[rows.STATUS] = rows.PREEMPTED if preempted else rows.WAITING
        if request.generated_tokens > 0:
            a.times[rows.FIRST_TOKEN, r] = 0.0
        a.times[rows.ARRIVAL, r] -= state.time_s
    held = 0
    for r, request in enumerate(state.running):
        blocks = -(-request.computed_tokens // state.limits.block_size)
        a.requests[rows.STATUS, r] = rows.RUNNING
        a.requests[rows.BLOCKS, r] = blocks
        held += blocks
        a.running[r] = r
    _share_hits(a, state, held)
    count, head = len(state.running), int(a.counters[rows.WAITING_HEAD])
    a.counters[rows.RUNNING_COUNT] = count
    for i in range(len(state.waiting)):
        a.waiting[head + i] = count + i
    a.counters[rows.WAITING_TAIL] = head + len(state.waiting)
    a.counters[rows.UNFINISHED] = count + len(state.waiting)
    a.counters[rows.FREE_BLOCKS] = state.free_blocks


def _share_hits(a: Arrays, state: EngineState, held: int) -> None:
    """Blocks that several requests hold are freed by the last: take the excess from prefix-cache hits."""
    excess = held - (state.limits.total_blocks - state.free_blocks)
    for r, request in enumerate(state.running):
        shared = min(max(excess, 0), request.cached_tokens // state.limits.block_size)
        a.requests[rows.BLOCKS, r] -= shared
        excess -= shared
    if excess > 0:
        raise StateError(f"free_blocks = {state.free_blocks}: running requests hold {excess} blocks more")


def _put_batches_in_flight(a: Arrays, state: EngineState, latency: KernelLatency) -> None:
    """Seat the in-flight steps' requests so that their output is applied when they end."""
    end_s = 0.0
    count = len(state.in_flight)
    a.counters[rows.STEPS] = a.counters[rows.BATCHES] = count
    for slot, step in enumerate(state.in_flight):
        start_s = max(end_s, step.submit_s - state.time_s) if slot else step.submit_s - state.time_s
        end_s = max(start_s + latency.seconds(step.shape), 0.0)
        a.batch_ends[slot] = end_s
    a.clock[rows.GPU_FREE] = end_s
    for r, request in enumerate((*state.running, *state.waiting)):
        _seat(a, r, request, count)


def _seat(a: Arrays, r: int, request: RequestState, count: int) -> None:
    older = request.in_flight_tokens - request.newest_tokens
    newest = request.newest_tokens
    if count == 1:
        older, newest = 0, request.in_flight_tokens
    stale = request.status == RequestStatus.PREEMPTED
    promised = request.output_placeholders
    # Asynchronous scheduling counts a token as promised once its step is scheduled.
    complete = promised > 0 if a.limits[rows.ASYNC] else request.computed_tokens >= request.total_tokens
    emits_newest = newest > 0 and (stale or complete)
    emits_older = older > 0 and (stale or promised > int(emits_newest))
    if older > 0:
        _sit(a, count - 2, r, older, emits_older)
    if newest > 0:
        _sit(a, count - 1, r, newest, emits_newest)


def _sit(a: Arrays, slot: int, r: int, tokens: int, emits: bool) -> None:
    seat = int(a.batch_facts[rows.LENGTH, slot])
    a.batch_requests[slot, seat] = r
    a.batch_tokens[slot, seat] = tokens
    a.batch_emits[slot, seat] = emits
    a.batch_facts[rows.LENGTH, slot] = seat + 1
