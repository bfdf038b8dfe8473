"""One scheduler's bookkeeping of what it sent, and of what it last heard."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from block.types import EngineLoad
from global_scheduler.traffic import MINUTE_S, Burden, Traffic

LOAD = EngineLoad(
    running=6,
    waiting=3,
    committed=1,
    free_blocks=400,
    total_blocks=1000,
    waiting_prompt_tokens=500,
    unprocessed_tokens=3000,
)
BURDEN = Burden(100, 50)


def test_outstanding_requests_and_tokens_come_and_go() -> None:
    traffic = Traffic()
    first = traffic.begin(BURDEN, 0.0)
    traffic.begin(Burden(1, 2), 0.0)
    assert (traffic.outstanding, traffic.outstanding_tokens) == (2, 153)
    traffic.end(first)
    assert (traffic.outstanding, traffic.outstanding_tokens) == (1, 3)


@settings(deadline=None)  # a busy machine may stall in any example
@given(st.integers(0, 2**32))
def test_the_last_minute_is_counted_right_in_bounded_memory(seed: int) -> None:
    source, traffic = random.Random(seed), Traffic()
    now_s, sent = 0.0, deque[int]()
    for _ in range(300):
        now_s += source.choice((0.0, 0.3, 2.0, source.expovariate(0.05)))
        traffic.begin(BURDEN, now_s)
        sent.append(int(now_s))
        assert traffic.sent_last_minute(now_s) == sum(second > int(now_s) - MINUTE_S for second in sent)
        assert len(traffic._seconds) <= MINUTE_S
    assert traffic.sent_last_minute(now_s + MINUTE_S) == 0


def test_nothing_heard_is_nothing_known() -> None:
    assert Traffic().last_known_load(0.0, 10.0) is None


def test_what_was_heard_stands_until_it_is_too_old() -> None:
    traffic = Traffic()
    traffic.hear(LOAD, traffic.tally, now_s=5.0)
    assert traffic.last_known_load(15.0, max_age_s=10.0) == LOAD
    assert traffic.last_known_load(15.1, max_age_s=10.0) is None


def test_what_was_sent_since_the_question_is_added() -> None:
    traffic = Traffic()
    traffic.begin(Burden(7, 7), 0.0)  # the predictor knew that one
    asked_at = traffic.tally
    traffic.begin(BURDEN, 1.0)
    traffic.hear(LOAD, asked_at, now_s=2.0)
    traffic.begin(BURDEN, 3.0)
    known = traffic.last_known_load(4.0, 10.0)
    assert known == EngineLoad(6, 3, 3, 400, 1000, 700, 3300)


def test_what_was_sent_and_ended_since_changes_nothing() -> None:
    """However heavy it was said to be."""
    traffic = Traffic()
    traffic.hear(LOAD, traffic.tally, now_s=0.0)
    light = traffic.begin(Burden(1, 1), 1.0)
    traffic.end(traffic.begin(Burden(9, 4000), 1.0))
    assert traffic.last_known_load(2.0, 10.0) == EngineLoad(6, 3, 2, 400, 1000, 501, 3002)
    traffic.end(light)
    assert traffic.last_known_load(2.0, 10.0) == LOAD


def test_what_the_load_counted_and_is_over_takes_its_average_share_along() -> None:
    traffic = Traffic()
    numbers = [traffic.begin(BURDEN, 0.0) for _ in range(5)]
    traffic.hear(LOAD, traffic.tally, now_s=1.0)
    for number in numbers:
        traffic.end(number)
    assert traffic.last_known_load(2.0, 10.0) == EngineLoad(3, 2, 0, 700, 1000, 250, 1500)


def test_more_ends_than_the_load_counted_leave_an_empty_engine() -> None:
    traffic = Traffic()
    numbers = [traffic.begin(BURDEN, 0.0) for _ in range(20)]
    traffic.hear(LOAD, traffic.tally, now_s=1.0)
    for number in numbers:
        traffic.end(number)
    assert traffic.last_known_load(2.0, 10.0) == EngineLoad(0, 0, 0, 1000, 1000, 0, 0)


@settings(deadline=None)  # a busy machine may stall in any example
@given(st.integers(0, 2**32))
def test_an_exact_load_stays_exact_if_all_that_it_counts_is_alike(seed: int) -> None:
    """An engine that holds what was sent and is not over, told now and then, some time late."""
    source, traffic = random.Random(seed), Traffic()
    live: list[int] = []
    for _ in range(200):
        if live and source.random() < 0.45:
            traffic.end(live.pop(source.randrange(len(live))))
        else:
            live.append(traffic.begin(BURDEN, 0.0))
        if source.random() < 0.1:
            count = len(live)
            load = EngineLoad(count, 0, 0, 1000 - count, 1000, count * 100, count * 150)
            traffic.hear(load, traffic.tally, 0.0)
        known = traffic.last_known_load(0.0, 10.0)
        if known is not None:
            assert known.running + known.committed == len(live)
            assert abs(known.unprocessed_tokens - 150 * len(live)) <= 1


def test_a_late_answer_to_an_older_question_does_not_replace_a_newer_one() -> None:
    traffic = Traffic()
    older = traffic.tally
    traffic.begin(BURDEN, 0.0)
    traffic.hear(LOAD, traffic.tally, now_s=1.0)
    traffic.hear(EngineLoad(0, 0, 0, 1000, 1000, 0, 0), older, now_s=1.1)
    assert traffic.last_known_load(1.2, 10.0) == LOAD
