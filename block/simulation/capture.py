"""The ``EngineState`` of a running simulation: what the feed of such an engine would show now."""

from __future__ import annotations

from collections.abc import Sequence

from block.simulation import arrays as rows
from block.simulation.arrays import Arrays
from block.types import BatchShape, EngineLimits, EngineState, InFlightStep, RequestState, RequestStatus


def capture(a: Arrays, ids: Sequence[str], limits: EngineLimits, engine_id: str = "simulated") -> EngineState:
    """State after the newest action; column ``r`` of the arrays is request ``ids[r]``."""
    seats = _newest_seats(a)
    running = [int(r) for r in a.running[: a.counters[rows.RUNNING_COUNT]]]
    head, tail = a.counters[rows.WAITING_HEAD], a.counters[rows.WAITING_TAIL]
    return EngineState(
        engine_id=engine_id,
        step=int(a.counters[rows.STEPS]),
        time_s=float(a.clock[rows.NOW]),
        limits=limits,
        running=tuple(_request(a, r, ids[r], seats) for r in running),
        waiting=tuple(_request(a, int(r), ids[int(r)], seats) for r in a.waiting[head:tail]),
        free_blocks=int(a.counters[rows.FREE_BLOCKS]),
        preemptions=int(a.counters[rows.TOTAL_PREEMPTIONS]),
        in_flight=_in_flight(a),
    )


def _request(a: Arrays, r: int, name: str, newest_seats: dict[int, int]) -> RequestState:
    column = a.requests[:, r]
    return RequestState(
        id=name,
        status=RequestStatus(int(column[rows.STATUS])),
        arrival_s=float(a.times[rows.ARRIVAL, r]),
        prompt_tokens=int(column[rows.PROMPT]),
        max_tokens=int(column[rows.MAX_TOKENS]),
        computed_tokens=int(column[rows.COMPUTED]),
        generated_tokens=int(column[rows.GENERATED]),
        in_flight_tokens=int(column[rows.IN_FLIGHT]),
        newest_tokens=newest_seats.get(r, 0),
        output_placeholders=int(column[rows.PLACEHOLDERS]),
        cached_tokens=int(column[rows.HIT_TOKENS]),
        priority=int(column[rows.PRIORITY]),
    )


def _newest_seats(a: Arrays) -> dict[int, int]:
    """Request column -> tokens, for the newest batch in flight."""
    if a.counters[rows.BATCHES] == 0:
        return {}
    slot = (int(a.counters[rows.STEPS]) - 1) % rows.SLOTS
    length = a.batch_facts[rows.LENGTH, slot]
    seats = zip(a.batch_requests[slot, :length], a.batch_tokens[slot, :length], strict=True)
    return {int(r): int(tokens) for r, tokens in seats}


def _in_flight(a: Arrays) -> tuple[InFlightStep, ...]:
    steps = int(a.counters[rows.STEPS])
    first = steps - int(a.counters[rows.BATCHES])
    return tuple(
        InFlightStep(step, float(a.batch_starts[step % rows.SLOTS]), _shape(a, step % rows.SLOTS))
        for step in range(first, steps)
    )


def _shape(a: Arrays, slot: int) -> BatchShape:
    facts = a.batch_facts[:, slot]
    decodes = int(facts[rows.DECODES])
    return BatchShape(
        prefill_tokens=int(facts[rows.TOKENS]) - decodes,
        decode_tokens=decodes,
        context_tokens=int(facts[rows.CONTEXT]),
        prefill_context_products=int(facts[rows.PRODUCTS]),
        requests=int(facts[rows.LENGTH]),
    )
