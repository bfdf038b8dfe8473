"""The ``EngineState`` of a running simulation: what the feed of such an engine would show now."""

from __future__ import annotations

from collections.abc import Sequence

from block.simulation import layout
from block.simulation.memory import Memory
from block.types import BatchShape, EngineLimits, EngineState, InFlightStep, RequestState, RequestStatus


def capture(
    memory: Memory, ids: Sequence[str], limits: EngineLimits, engine_id: str = "simulated"
) -> EngineState:
    """State after the newest action; row ``r`` of the memory is request ``ids[r]``."""
    s = memory.s
    in_flight = s[layout.BATCHES] > 0
    promised = _promised(memory)
    newest = memory.scheduled(int(s[layout.STEPS] - 1) % 2) if in_flight else {}

    def request(row: int) -> RequestState:
        return _request(memory, row, ids[row], newest.get(row, 0), promised.count(row))

    return EngineState(
        engine_id=engine_id,
        step=int(s[layout.STEPS]),
        time_s=float(memory.f[layout.NOW]),
        limits=limits,
        running=tuple(request(row) for row in memory.running),
        waiting=tuple(request(row) for row in memory.waiting),
        free_blocks=int(s[layout.FREE_BLOCKS]),
        preemptions=int(s[layout.PREEMPTIONS_DONE]),
        in_flight=_in_flight(memory),
    )


def _request(memory: Memory, row: int, name: str, newest_tokens: int, promised: int) -> RequestState:
    record = memory.requests[row].tolist()
    preempted = record[layout.STATUS] == layout.PREEMPTED
    return RequestState(
        id=name,
        status=RequestStatus(record[layout.STATUS]),
        arrival_s=float(memory.times[row, layout.ARRIVAL]),
        prompt_tokens=record[layout.PROMPT],
        max_tokens=record[layout.MAX_TOKENS],
        computed_tokens=record[layout.COMPUTED],
        generated_tokens=record[layout.GENERATED],
        in_flight_tokens=record[layout.IN_FLIGHT],
        newest_tokens=newest_tokens,
        output_placeholders=promised if preempted else record[layout.PLACEHOLDERS],
        # A request that was preempted finds its own generated tokens again; nobody else has them.
        cached_tokens=min(record[layout.HIT_TOKENS], record[layout.PROMPT]),
        priority=record[layout.PRIORITY],
    )


def _promised(memory: Memory) -> list[int]:
    """Rows that batches in flight yield a token for, preempted ones included, which keep no count of it."""
    steps, rows = int(memory.s[layout.STEPS]), []
    for step in range(steps - int(memory.s[layout.BATCHES]), steps):
        length = memory.batch_facts(step % 2)[layout.LENGTH]
        positions, _, yields = memory.seats(step % 2)[:, :length]
        rows += memory.rows(positions[yields > 0])
    return rows


def _in_flight(memory: Memory) -> tuple[InFlightStep, ...]:
    steps = int(memory.s[layout.STEPS])
    return tuple(
        InFlightStep(step, float(memory.f[layout.BATCH_START + step % 2]), _shape(memory, step % 2))
        for step in range(steps - int(memory.s[layout.BATCHES]), steps)
    )


def _shape(memory: Memory, slot: int) -> BatchShape:
    facts = memory.batch_facts(slot).tolist()
    return BatchShape(
        prefill_tokens=facts[layout.TOKENS] - facts[layout.DECODES],
        decode_tokens=facts[layout.DECODES],
        context_tokens=facts[layout.CONTEXT],
        prefill_context_products=facts[layout.PRODUCTS],
        requests=facts[layout.LENGTH],
    )
