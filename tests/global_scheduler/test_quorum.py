"""When waiting for answers ends: all, enough and a grace, or the deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from global_scheduler.quorum import Quorum, gather_enough


class Answers:
    """Tasks that end when told to."""

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[Any]] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def make(self, count: int) -> list[asyncio.Task[Any]]:
        self.futures = [asyncio.get_running_loop().create_future() for _ in range(count)]
        self.tasks = [asyncio.create_task(self._one(future)) for future in self.futures]
        return self.tasks

    def give(self, number: int, value: Any = "answer") -> None:
        self.futures[number].set_result(value)

    async def _one(self, future: asyncio.Future[Any]) -> Any:
        return await future


@pytest_asyncio.fixture
async def answers() -> AsyncIterator[Answers]:
    made = Answers()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def settled(waiting: asyncio.Task[Any]) -> bool:
    """Whether it has ended by now, a few turns of the loop later."""
    for _ in range(5):
        await asyncio.sleep(0)
    return waiting.done()


async def test_without_a_quorum_all_are_waited_for(answers: Answers) -> None:
    tasks = answers.make(3)
    waiting = asyncio.create_task(gather_enough(tasks, 30.0, Quorum()))
    answers.give(0)
    answers.give(1)
    assert not await settled(waiting)
    answers.give(2)
    assert await waiting == (set(tasks), set())


async def test_the_deadline_ends_it_and_cancels_nothing(answers: Answers) -> None:
    for quorum in (Quorum(), Quorum(answers=2, grace_s=9.0)):
        tasks = answers.make(3)
        answers.give(0)
        started_s = time.monotonic()
        done, late = await gather_enough(tasks, 0.05, quorum)
        assert 0.04 < time.monotonic() - started_s < 5.0
        assert (done, late) == ({tasks[0]}, {tasks[1], tasks[2]})
        assert not any(task.done() for task in late)
        for number in (1, 2):
            answers.give(number)


async def test_the_quorum_ends_it_at_once_without_a_grace(answers: Answers) -> None:
    tasks = answers.make(4)
    waiting = asyncio.create_task(gather_enough(tasks, 30.0, Quorum(answers=2)))
    answers.give(3)
    assert not await settled(waiting)
    answers.give(1)
    assert await settled(waiting)
    assert waiting.result() == ({tasks[1], tasks[3]}, {tasks[0], tasks[2]})


async def test_failures_count_for_no_quorum(answers: Answers) -> None:
    tasks = answers.make(4)
    waiting = asyncio.create_task(gather_enough(tasks, 30.0, Quorum(answers=2)))
    answers.give(0, None)
    answers.give(1, None)
    answers.give(2)
    assert not await settled(waiting)
    answers.give(3)
    done, late = await waiting
    assert (len(done), len(late)) == (4, 0)


async def test_when_all_have_failed_nobody_is_waited_for(answers: Answers) -> None:
    tasks = answers.make(3)
    waiting = asyncio.create_task(gather_enough(tasks, 30.0, Quorum(answers=2)))
    for number in range(3):
        answers.give(number, None)
    assert await settled(waiting)


async def test_a_quorum_of_all_or_more_waits_for_all(answers: Answers) -> None:
    tasks = answers.make(2)
    waiting = asyncio.create_task(gather_enough(tasks, 30.0, Quorum(answers=5)))
    answers.give(0)
    assert not await settled(waiting)
    answers.give(1)
    assert await waiting == (set(tasks), set())


async def test_the_grace_lets_others_in_and_ends_early_if_all_came(answers: Answers) -> None:
    tasks = answers.make(3)
    waiting = asyncio.create_task(gather_enough(tasks, 30.0, Quorum(answers=1, grace_s=20.0)))
    answers.give(0)
    assert not await settled(waiting)
    answers.give(1)
    answers.give(2)
    done, _ = await waiting
    assert done == set(tasks)


async def test_the_grace_does_not_outlast_the_deadline(answers: Answers) -> None:
    tasks = answers.make(2)
    answers.give(0)
    started_s = time.monotonic()
    done, _ = await gather_enough(tasks, 0.05, Quorum(answers=1, grace_s=30.0))
    assert time.monotonic() - started_s < 5.0
    assert done == {tasks[0]}
