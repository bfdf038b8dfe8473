"""What the mirror refuses, and that it then still holds its last good state."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from block.errors import BlockError, FeedError, StateError
from block.messages import FEED_VERSION, Clockwork, Columns, Delta, RequestFacts, Snapshot
from block.types import BatchShape, EngineLimits, InFlightStep, RequestStatus, StepRecord
from predictor.mirror import Mirror

LIMITS = EngineLimits(
    block_size=16, total_blocks=20, max_num_seqs=3, max_num_batched_tokens=64, max_model_len=128
)
SHAPE = BatchShape(0, 2, 60, 0, 2)


def ints(*values: int) -> bytes:
    return array("i", values).tobytes()


def facts(handle: int, **changes: Any) -> RequestFacts:
    return RequestFacts(
        **{"handle": handle, "id": f"r{handle}", "arrival_s": 5.0, "prompt_tokens": 30, "max_tokens": 20}
        | changes
    )


SNAPSHOT = Snapshot(
    version=FEED_VERSION,
    seq=7,
    engine_id="engine",
    limits=LIMITS,
    clock=Clockwork(3, 10.0, 15, 1, (InFlightStep(3, 9.9, SHAPE),)),
    requests=(facts(0), facts(1), facts(2)),
    running=ints(1, 0),
    running_columns=Columns(ints(31, 30), ints(1, 0), ints(1, 30), ints(0, 1), ints(1, 30)),
    waiting=ints(2),
    waiting_columns=Columns(*[ints(0)] * 5),
    preempted=ints(2),
    cached={1: 16},
)
DELTA = Delta(FEED_VERSION, 8, "engine", Clockwork(4, 11.0, 15, 1, SNAPSHOT.clock.in_flight))


def mirror() -> Mirror:
    made = Mirror()
    made.apply(SNAPSHOT)
    return made


THREE = tuple(InFlightStep(step, 9.9, SHAPE) for step in (1, 2, 3))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"limits": dataclasses.replace(LIMITS, block_size=10**12)}, "limits.block_size: 1000000000000"),
        ({"limits": dataclasses.replace(LIMITS, total_blocks=2**62)}, "limits.total_blocks"),
        ({"limits": dataclasses.replace(LIMITS, max_num_seqs=2**40)}, "limits.max_num_seqs"),
        ({"limits": dataclasses.replace(LIMITS, chunked_prefill=False)}, "limits.max_num_batched_tokens"),
        ({"requests": (facts(0), facts(1), facts(2, priority=2**63))}, "'r2': priority"),
        ({"requests": (facts(0), facts(1), facts(2, max_tokens=2**63))}, "'r2': max_tokens"),
        (
            {"requests": (facts(0), facts(1), facts(2, prompt_tokens=128))},
            "request r2: can never come to its end",
        ),
        ({"clock": Clockwork(3, 10.0, 15, 1, THREE)}, "in_flight: 3 steps"),
        ({"clock": Clockwork(3, 10.0, 15, 1)}, "request r1: in_flight_tokens without a step"),
        (
            {"running_columns": Columns(ints(31, 30), ints(1, 0), ints(0, 30), ints(0, 1), ints(0, 30))},
            "request r1: computed_tokens = 31",
        ),
        (
            {
                "limits": dataclasses.replace(LIMITS, prefix_caching=True),
                "clock": Clockwork(3, 10.0, 20, 1, (InFlightStep(3, 9.9, SHAPE),)),
            },
            "free_blocks = 20: running requests hold 2 blocks more",
        ),
    ],
)
def test_what_the_simulation_refuses_does_not_replace_the_last_good_state(changes, named) -> None:
    made = mirror()
    before = made.columns()
    with pytest.raises(StateError, match=named):
        made.apply_bytes(msgspec.msgpack.encode(replace(SNAPSHOT, **changes)))
    assert made.columns() is before


def test_a_snapshot_is_held_in_queue_order() -> None:
    state = mirror().state()
    assert [request.id for request in state.running] == ["r1", "r0"]
    assert [request.status for request in state.waiting] == [RequestStatus.PREEMPTED]
    assert state.running[0].cached_tokens == 16
    assert [request.computed_tokens for request in state.running] == [31, 30]
    assert (state.step, state.time_s, state.free_blocks, state.preemptions) == (3, 10.0, 15, 1)
    assert state.in_flight == SNAPSHOT.clock.in_flight


def test_a_delta_changes_what_it_names_and_nothing_else() -> None:
    made = mirror()
    admitted = replace(
        DELTA,
        added=(facts(3, priority=2),),
        removed=ints(1),
        running=ints(0, 2),
        running_columns=Columns(ints(31, 30), ints(1, 0), ints(1, 30), ints(0, 0), ints(1, 30)),
        waiting=ints(3),
        preempted=b"",
        cached={2: 16},
    )
    made.apply(admitted)
    state = made.state()
    assert [(r.id, r.cached_tokens) for r in state.running] == [("r0", 0), ("r2", 16)]
    assert [(r.id, r.priority, r.status) for r in state.waiting] == [("r3", 2, RequestStatus.WAITING)]
    assert state.limits == LIMITS


def test_finished_steps_are_kept_until_the_engine_restarts() -> None:
    made = mirror()
    record = StepRecord(3, 9.9, 10.9, 1.0, SHAPE)
    made.apply(replace(DELTA, clock=replace(DELTA.clock, finished_steps=(record,))))
    assert made.state().recent_steps == (record,)
    made.apply(replace(SNAPSHOT, seq=9))
    assert made.state().recent_steps == (record,)
    made.apply(replace(SNAPSHOT, seq=0, engine_id="restarted"))
    assert made.state().recent_steps == ()


def columns(**changes: bytes) -> Callable[[], Delta]:
    return lambda: replace(DELTA, running_columns=replace(SNAPSHOT.running_columns, **changes))


def clock(**changes: Any) -> Callable[[], Delta]:
    return lambda: replace(DELTA, clock=replace(DELTA.clock, **changes))


def delta(**changes: Any) -> Callable[[], Delta]:
    return lambda: replace(DELTA, **changes)


def limits(**changes: Any) -> Callable[[], Snapshot]:
    return lambda: replace(SNAPSHOT, limits=dataclasses.replace(LIMITS, **changes))


@pytest.mark.parametrize(
    ("message", "kind", "named"),
    [
        (delta(version=99), FeedError, "version: 99"),
        (delta(seq=9), FeedError, "seq: 9 after 7"),
        (delta(seq=7), FeedError, "seq: 7 after 7"),
        (delta(engine_id="other"), FeedError, "engine_id: other"),
        (clock(step=2), StateError, "clock.step: 2 after 3"),
        (clock(preemptions=0), StateError, "clock.preemptions: 0 after 1"),
        (clock(free_blocks=-1), StateError, "clock.free_blocks: -1"),
        (clock(free_blocks=21), StateError, "clock.free_blocks: 21 of 20"),
        (clock(free_blocks=17), StateError, "running_columns.computed: tokens of 4 blocks, but 3"),
        (clock(time_s=float("nan")), StateError, "clock.time_s: nan"),
        (
            clock(in_flight=(InFlightStep(9, 1.0, SHAPE),)),
            StateError,
            "clock.in_flight: steps \\[9\\] at step 4",
        ),
        (
            clock(finished_steps=(StepRecord(3, 1.0, 2.0, -1.0, SHAPE),)),
            StateError,
            "finished_steps.duration_s: -1.0",
        ),
        (
            clock(in_flight=(InFlightStep(4, 1.0, BatchShape(0, -2, 0, 0, 0)),)),
            StateError,
            "in_flight.shape.decode_tokens: -2",
        ),
        (delta(running=ints(1, 9)), StateError, "running: unknown handle 9"),
        (delta(running=ints(1, 1)), StateError, "running, waiting: 3 places for 3"),
        (delta(running=ints(1, 0, 2)), StateError, "running_columns.computed: 2 values for 3 requests"),
        (delta(removed=ints(9)), StateError, "removed: unknown handle 9"),
        (delta(removed=ints(0)), StateError, "3 places for 2 requests"),
        (delta(added=(facts(2),)), StateError, "request 'r2': handle 2 is taken"),
        (delta(added=(facts(3), facts(3))), StateError, "request 'r3': handle 3 is taken"),
        (delta(added=(facts(3),)), StateError, "3 places for 4 requests"),
        (delta(added=(facts(3, prompt_tokens=0),)), StateError, "prompt_tokens: 0"),
        (delta(added=(facts(3, prompt_tokens=129),)), StateError, "prompt_tokens: 129 not in 1..128"),
        (delta(added=(facts(3, max_tokens=0),)), StateError, "max_tokens: 0"),
        (delta(added=(facts(3, arrival_s=float("inf")),)), StateError, "arrival_s: inf"),
        (delta(preempted=ints(0)), StateError, "preempted: handle 0 is not waiting"),
        (delta(cached={9: 1}), StateError, "cached: unknown handle 9"),
        (delta(cached={0: 31}), StateError, "cached: 31 of 30 prompt tokens"),
        (columns(computed=ints(-1, 30)), StateError, "running_columns.computed: -1"),
        (columns(generated=ints(1, -5)), StateError, "running_columns.generated: -5"),
        (columns(computed=ints(31)), StateError, "running_columns.computed: 1 values for 2"),
        (columns(computed=b"\x01\x00\x00"), StateError, "running_columns.computed: 3 bytes"),
        (columns(generated=ints(21, 0)), StateError, "generated: 21 for request r1: more than max_tokens"),
        (columns(computed=ints(32, 30)), StateError, "computed: 32 for request r1: more than the request"),
        (columns(newest=ints(2, 30)), StateError, "newest: 2 for request r1: more than are in flight"),
        (delta(waiting=ints(2, 2)), StateError, "waiting_columns.computed: 1 values for 2"),
        (limits(block_size=0), StateError, "limits.block_size: 0"),
        (limits(max_num_seqs=1), StateError, "running: 2 requests, but max_num_seqs is 1"),
        (limits(watermark_blocks=-1), StateError, "limits.watermark_blocks: -1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(message: Any, kind: type[BlockError], named: str) -> None:
    made = mirror()
    before = made.state()
    with pytest.raises(kind, match=named):
        made.apply_bytes(msgspec.msgpack.encode(message()))
    assert made.state() == before
    made.apply(DELTA)
    assert made.state().step == 4


def test_nothing_is_known_before_the_first_snapshot() -> None:
    empty = Mirror()
    assert not empty.ready
    for act in (empty.state, lambda: empty.apply(DELTA)):
        with pytest.raises(FeedError, match="no snapshot"):
            act()


FRAMES = [msgspec.msgpack.encode(message) for message in (SNAPSHOT, DELTA)]


def test_a_deeply_nested_frame_is_refused() -> None:
    frame = msgspec.msgpack.encode(SNAPSHOT)
    longer = bytes([frame[0] + 1]) + frame[1:] + b"\x91" * 100_000 + b"\xc0"
    made = mirror()
    with pytest.raises(FeedError, match="not understood"):
        made.apply_bytes(longer)


@given(frame=st.sampled_from(FRAMES), data=st.data())
def test_truncated_frames_are_refused(frame: bytes, data: st.DataObject) -> None:
    made = mirror()
    before = made.state()
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(FeedError, match="not understood"):
        made.apply_bytes(frame[:cut])
    assert made.state() == before


@given(
    frame=st.sampled_from(FRAMES),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damaged_frames_are_refused_or_make_a_whole_state(
    frame: bytes, damage: list[tuple[int, int]]
) -> None:
    made = mirror()
    before = made.state()
    damaged = bytearray(frame)
    for place, value in damage:
        damaged[place % len(frame)] = value
    try:
        made.apply_bytes(bytes(damaged))
    except BlockError:
        assert made.state() == before
    else:
        state = made.state()
        assert all(r.computed_tokens >= 0 for r in (*state.running, *state.waiting))
