"""The circuit breaker: when it opens, how long it pauses, and what closes it again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from block.config import BreakerSettings
from global_scheduler.breaker import Breaker, BreakerState

RULES = BreakerSettings(failures_in_a_row=3, least_outcomes=10, window_s=10.0, longest_pause_s=8.0)


def breaker(seed: int = 0) -> Breaker:
    return Breaker(RULES, random.Random(seed))


def opened_at(now_s: float, seed: int = 0) -> Breaker:
    one = breaker(seed)
    for _ in range(RULES.failures_in_a_row):
        one.begin()
        one.fail(now_s)
    assert one.state is BreakerState.OPEN
    return one


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    one = breaker()
    for failed in (True, True, False, True, True):
        assert one.admits
        one.fail(0.0) if failed else one.succeed(0.0)
    assert one.state is BreakerState.CLOSED
    one.fail(0.0)
    assert (one.state, one.admits, one.opened) == (BreakerState.OPEN, False, 1)


@pytest.mark.parametrize(("pause_s", "opens"), [(0.0, True), (6.0, False)])
def test_half_of_many_opens_it_but_only_within_the_window(pause_s: float, opens: bool) -> None:
    one = breaker()
    now_s = 0.0
    for _ in range(6):
        one.fail(now_s)
        one.succeed(now_s)
        now_s += pause_s
    assert (one.state is BreakerState.OPEN) == opens


def test_it_is_checked_after_its_pause_and_one_request_tries() -> None:
    one = opened_at(100.0)
    assert not one.due(100.0 + RULES.first_pause_s * 0.49)
    assert one.due(100.0 + RULES.first_pause_s)
    one.checked(well=True, now_s=101.0)
    assert one.admits
    one.begin()
    assert not one.admits
    one.succeed(101.5)
    assert one.state is BreakerState.CLOSED


def begun(one: Breaker) -> int:
    """As many as it admits now."""
    count = 0
    while one.admits and count < 1000:
        one.begin()
        count += 1
    return count


def test_while_a_trial_tells_nothing_others_may_try_twice_as_many_after_each_while() -> None:
    one = opened_at(0.0)
    one.checked(well=True, now_s=1.0)
    for now_s in (1.0, 300.0):
        one.pass_time(now_s)  # nobody came: time alone tells nothing
    assert begun(one) == 1
    one.pass_time(300.0)
    more = []
    for seconds in (0.9, 1.0, 1.9, 2.0, 3.0):
        one.pass_time(300.0 + seconds * RULES.trial_s)
        more.append(begun(one))
    assert more == [0, 1, 0, 2, 4]
    one.fail(400.0)
    assert (one.state, one.admits) == (BreakerState.OPEN, False)
    one.pass_time(500.0)
    one.checked(well=True, now_s=500.0)
    assert begun(one) == 1


def test_a_success_of_any_of_them_closes_it() -> None:
    one = opened_at(0.0)
    one.checked(well=True, now_s=1.0)
    for now_s in (2.0, 2.0 + RULES.trial_s):
        begun(one)
        one.pass_time(now_s)
    begun(one)
    one.succeed(60.0)
    assert (one.state, one.admits) == (BreakerState.CLOSED, True)


@pytest.mark.parametrize("client_left", [True, False])
def test_a_trial_that_tells_nothing_leaves_room_for_the_next(client_left: bool) -> None:
    one = opened_at(0.0)
    one.checked(well=True, now_s=1.0)
    one.begin()
    if client_left:
        one.abandon()
        assert (one.state, one.admits) == (BreakerState.HALF_OPEN, True)
    else:
        one.fail(2.0)
        assert (one.state, one.admits) == (BreakerState.OPEN, False)


def test_pauses_double_up_to_a_bound_and_begin_anew_once_it_was_closed() -> None:
    one = opened_at(0.0)
    longest = []
    for _ in range(5):
        now_s = 0.0
        while not one.due(now_s):
            now_s += 0.01
        longest.append(now_s)
        one.checked(well=False, now_s=0.0)
    for pause_s, bound_s in zip(longest, (1.0, 2.0, 4.0, 8.0, 8.0), strict=True):
        assert bound_s / 2 <= pause_s <= bound_s + 0.01
    one.checked(well=True, now_s=0.0)
    one.succeed(0.0)
    one.trip(0.0)
    assert one.due(RULES.first_pause_s)


def test_copies_do_not_come_back_together_and_a_seed_repeats_itself() -> None:
    def pause(seed: int) -> float:
        one, now_s = opened_at(0.0, seed), 0.0
        while not one.due(now_s):
            now_s += 0.001
        return now_s

    assert pause(1) == pause(1)
    assert len({pause(seed) for seed in range(8)}) > 4


ACTS = st.lists(st.sampled_from(["begin", "succeed", "fail", "abandon", "well", "ill", "trip", "wait"]))


@given(acts=ACTS)
def test_whatever_happens_it_can_always_be_closed_again(acts: list[str]) -> None:
    one, now_s = breaker(), 0.0
    for act in acts:
        now_s += 1.0
        if act in ("succeed", "fail", "trip"):
            getattr(one, act)(now_s)
        elif act in ("well", "ill"):
            one.checked(well=act == "well", now_s=now_s)
        elif act == "wait":
            one.pass_time(now_s)
        else:
            getattr(one, act)()
        assert one.admits <= (one.state is not BreakerState.OPEN)
    now_s += RULES.longest_pause_s
    if one.state is BreakerState.OPEN:
        assert one.due(now_s)
        one.checked(well=True, now_s=now_s)
    for _ in range(2):
        one.pass_time(now_s)
        now_s += 20 * RULES.trial_s
    one.pass_time(now_s)
    assert one.admits  # whatever has become of the trials
    one.begin()
    one.succeed(now_s)
    assert one.state is BreakerState.CLOSED
