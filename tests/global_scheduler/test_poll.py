"""When waiting for answers ends: all, enough and a grace, or the deadline."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from block.messages import PredictResponse
from block.types import EngineLoad, Prediction, PredictionSpread
from global_scheduler.poll import Poll
from global_scheduler.quorum import Quorum

ANSWER = PredictResponse(
    "a",
    Prediction(0.1, 1.0, 0.01, 0.0, 0.0, 0, 0.0, "test@0", 1.0),
    PredictionSpread(1, 0.0, 0.1, 0.0, 1.0),
    EngineLoad(0, 0, 0, 1, 1, 0, 0),
    1,
)
LONG_S = 30.0


class Waiting:
    """A poll of ``asked`` predictors, waited for."""

    def __init__(self, asked: int, quorum: Quorum, deadline_s: float = LONG_S) -> None:
        self.poll = Poll(asked, quorum)
        self.task = asyncio.create_task(self.poll.settled(deadline_s))

    def answer(self, *names: str) -> None:
        for name in names:
            self.poll.take(name, msgspec.structs.replace(ANSWER, instance=name))

    def fail(self, *names: str) -> None:
        for name in names:
            self.poll.take(name, None)

    async def over(self) -> bool:
        """Whether it has ended, a few turns of the loop later."""
        for _ in range(5):
            await asyncio.sleep(0)
        return self.task.done()


async def test_without_a_quorum_all_are_waited_for() -> None:
    waiting = Waiting(3, Quorum())
    waiting.answer("a", "b")
    assert not await waiting.over()
    waiting.fail("c")
    assert await waiting.over()
    assert (list(waiting.poll.answers), waiting.poll.failed, waiting.poll.late) == (["a", "b"], 1, 0)


@pytest.mark.parametrize("quorum", [Quorum(), Quorum(answers=2, grace_s=LONG_S)])
async def test_the_deadline_ends_it_and_what_comes_later_changes_nothing(quorum: Quorum) -> None:
    started_s = time.monotonic()
    waiting = Waiting(3, quorum, deadline_s=0.05)
    waiting.answer("a")
    await waiting.task
    assert 0.04 < time.monotonic() - started_s < 5.0
    waiting.answer("b")
    waiting.fail("c")
    assert (list(waiting.poll.answers), waiting.poll.failed, waiting.poll.late) == (["a"], 0, 2)


async def test_the_quorum_ends_it_at_once_without_a_grace() -> None:
    waiting = Waiting(4, Quorum(answers=2))
    waiting.answer("d")
    assert not await waiting.over()
    waiting.answer("b")
    assert await waiting.over()
    assert (list(waiting.poll.answers), waiting.poll.late) == (["d", "b"], 2)


async def test_failures_count_for_no_quorum() -> None:
    waiting = Waiting(4, Quorum(answers=2))
    waiting.fail("a", "b")
    waiting.answer("c")
    assert not await waiting.over()
    waiting.answer("d")
    assert await waiting.over()


async def test_when_all_have_failed_nobody_is_waited_for() -> None:
    waiting = Waiting(3, Quorum(answers=2))
    waiting.fail("a", "b", "c")
    assert await waiting.over()
    assert waiting.poll.usable == {}


async def test_a_quorum_of_more_than_were_asked_waits_for_all() -> None:
    waiting = Waiting(2, Quorum(answers=5))
    waiting.answer("a")
    assert not await waiting.over()
    waiting.answer("b")
    assert await waiting.over()


async def test_the_grace_lets_others_in_and_ends_early_if_all_came() -> None:
    waiting = Waiting(3, Quorum(answers=1, grace_s=LONG_S))
    waiting.answer("a")
    assert not await waiting.over()
    waiting.answer("b", "c")
    assert await waiting.over()
    assert len(waiting.poll.answers) == 3


async def test_the_grace_ends_and_does_not_outlast_the_deadline() -> None:
    for quorum, deadline_s in (
        (Quorum(answers=1, grace_s=0.05), LONG_S),
        (Quorum(answers=1, grace_s=LONG_S), 0.05),
    ):
        started_s = time.monotonic()
        waiting = Waiting(2, quorum, deadline_s)
        waiting.answer("a")
        await waiting.task
        assert 0.04 < time.monotonic() - started_s < 5.0


async def test_answers_that_came_before_the_waiting_count() -> None:
    poll = Poll(1, Quorum())
    poll.take("a", ANSWER)
    await poll.settled(LONG_S)
    assert poll.usable == {"a": ANSWER}


async def test_too_few_answers_are_none() -> None:
    for answered, usable in ((1, 0), (2, 2), (4, 4)):
        poll = Poll(4, Quorum(minimum_share=0.5))
        for name in "abcd":
            poll.take(name, ANSWER if len(poll.answers) < answered else None)
        assert len(poll.usable) == usable
        assert len(poll.answers) == answered
