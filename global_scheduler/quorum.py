"""How many answers a decision waits for, and the waiting.

Knows tasks and time, not what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Quorum:
    """When a decision stops waiting, apart from its deadline."""

    probes: int | None = None
    """Predictors to ask; None leaves it to the prober."""
    answers: int | None = None
    """Enough to decide on; None waits for all."""
    grace_s: float = 0.0
    """How much longer the others have once there are enough."""
    minimum_share: float = 0.0
    """Share of those asked that must answer for the answers to be used at all."""


Done = set[asyncio.Task[Any]]


async def gather_enough(
    tasks: Collection[asyncio.Task[Any]], deadline_s: float, quorum: Quorum
) -> tuple[Done, Done]:
    """Wait for ``tasks``; those done and those still out when the deadline or the quorum ended it.

    A task that returns None has failed and counts for no quorum. None is cancelled.
    """
    if quorum.answers is None or quorum.answers >= len(tasks):
        return await asyncio.wait(tasks, timeout=deadline_s)
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + deadline_s
    await _wait_for_answers(tasks, quorum.answers, deadline_s)
    out = [task for task in tasks if not task.done()]
    left_s = min(quorum.grace_s, ends_s - loop.time())
    if out and left_s > 0:
        await asyncio.wait(out, timeout=left_s)
    done = {task for task in tasks if task.done()}
    return done, set(tasks) - done


async def _wait_for_answers(tasks: Collection[asyncio.Task[Any]], answers: int, deadline_s: float) -> None:
    """One waker for all: waiting for each first one anew would cost the square of their number."""
    enough = asyncio.get_running_loop().create_future()
    answered = over = 0

    def note(task: asyncio.Task[Any]) -> None:
        nonlocal answered, over
        over += 1
        answered += not task.cancelled() and task.exception() is None and task.result() is not None
        if (answered >= answers or over == len(tasks)) and not enough.done():
            enough.set_result(None)

    for task in tasks:
        task.add_done_callback(note)
    try:
        await asyncio.wait((enough,), timeout=deadline_s)
    finally:
        for task in tasks:
            task.remove_done_callback(note)
