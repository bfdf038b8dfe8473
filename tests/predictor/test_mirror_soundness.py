"""One compiled pass says of every state what the checks that name a fault say."""

from __future__ import annotations

import dataclasses
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from block.errors import StateError
from block.messages import FEED_VERSION, Clockwork, Columns, RequestFacts, Snapshot
from block.simulation.resume import check_columns
from block.types import BatchShape, EngineLimits, InFlightStep
from predictor.mirror import Held

LIMITS = EngineLimits(
    block_size=4, total_blocks=20, max_num_seqs=3, max_num_batched_tokens=64, max_model_len=48
)
SHAPE = BatchShape(0, 2, 60, 0, 2)
# By row of the feed's columns, for the running requests and the one that waits.
RUNNING, WAITING = ([21, 20], [1, 0], [1, 20], [0, 1], [1, 20]), ([0], [0], [0], [0], [0])

changes = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 2), st.one_of(st.integers(-1, 3), st.integers(15, 50), st.just(90))
    ),
    max_size=3,
)


def packed(*values: int) -> bytes:
    return array("i", values).tobytes()


def held(changed: list[tuple[int, int, int]], free: int, steps: int, seats: int, *, shared: bool) -> Held:
    columns = [[*present, *waiting] for present, waiting in zip(RUNNING, WAITING, strict=True)]
    for column, row, value in changed:
        columns[column][row] = value
    limits = dataclasses.replace(LIMITS, prefix_caching=shared, max_num_seqs=seats)
    return Held.of_snapshot(
        Snapshot(
            version=FEED_VERSION,
            seq=0,
            engine_id="engine",
            limits=limits,
            clock=Clockwork(3, 10.0, free, 0, tuple(InFlightStep(1 + n, 9.0, SHAPE) for n in range(steps))),
            requests=tuple(RequestFacts(n, f"r{n}", 5.0, 20, 10) for n in range(3)),
            running=packed(0, 1),
            running_columns=Columns(*[packed(*column[:2]) for column in columns]),
            waiting=packed(2),
            waiting_columns=Columns(*[packed(column[2]) for column in columns]),
        )
    )


def named_checks(state: Held) -> int:
    """What they find the longest request to be; 0 if one of them objects."""
    try:
        state.check()
        return check_columns(dataclasses.replace(state.engine_columns(), longest=0))
    except StateError:
        return 0


@settings(max_examples=400, deadline=None)
@given(
    changed=changes,
    free=st.integers(0, 20),
    steps=st.integers(0, 3),
    seats=st.integers(1, 3),
    shared=st.booleans(),
)
def test_the_pass_agrees_with_the_checks_that_name_a_fault(changed, free, steps, seats, shared) -> None:
    state = held(changed, free, steps, seats, shared=shared)
    assert state.engine_columns().longest == named_checks(state)


@pytest.mark.parametrize(
    ("change", "sound"),
    [
        ([], True),
        ([(1, 0, 11)], False),  # more generated than max_tokens
        ([(0, 0, 30)], False),  # more computed than there are tokens
        ([(4, 0, 2)], False),  # newest exceed those in flight
        ([(3, 2, -1)], False),
    ],
)
def test_what_the_property_above_compares_is_of_both_kinds(change, sound) -> None:
    assert (held(change, 9, 1, 3, shared=False).engine_columns().longest > 0) is sound
