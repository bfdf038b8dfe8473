"""One question put to several predictors: their answers, and when the waiting ends.

Knows time, not what is asked or how it travels.
"""

from __future__ import annotations

import asyncio

from block.messages import PredictResponse
from global_scheduler.quorum import Quorum


class Poll:
    """Made within a running loop. What comes after the end changes nothing any more."""

    def __init__(self, asked: int, quorum: Quorum, unasked: int = 0) -> None:
        """``asked``: how many predictors were, at least one. ``unasked``: further ones, taken for silent."""
        self.answers: dict[str, PredictResponse] = {}
        """By instance name."""
        self.failed = 0
        self.heard: set[str] = set()
        """Who has answered or failed."""
        self.overdue = False
        """Whether it was the deadline that ended the waiting."""
        self._asked = asked
        self._unasked = unasked
        self._quorum = quorum
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def late(self) -> int:
        """Those of whom nothing has been heard."""
        return self._asked - len(self.answers) - self.failed

    @property
    def usable(self) -> dict[str, PredictResponse]:
        """The answers, or none of them if they are too few to decide on."""
        least = self._quorum.minimum_share * (self._asked + self._unasked)
        return self.answers if len(self.answers) >= least else {}

    def take(self, name: str, answer: PredictResponse | None) -> None:
        """The predictor of instance ``name`` has answered, or failed (None)."""
        if self._ended.done():
            return
        self.heard.add(name)
        if answer is None:
            self.failed += 1
        else:
            self.answers[name] = answer
        if self.late == 0:
            self._end()
        elif answer is not None and len(self.answers) == self._quorum.answers:
            self._end_in(self._quorum.grace_s)

    async def settled(self, deadline_s: float) -> None:
        """Wait for all, or until the quorum's grace is over, but no longer than ``deadline_s``."""
        if deadline_s > 0:
            self._timers.append(self._loop.call_later(deadline_s, self._run_out))
        else:
            self._run_out()
        try:
            await self._ended
        finally:
            for timer in self._timers:
                timer.cancel()

    def _end_in(self, delay_s: float) -> None:
        if delay_s > 0:
            self._timers.append(self._loop.call_later(delay_s, self._end))
        else:
            self._end()

    def _run_out(self) -> None:
        self.overdue = not self._ended.done()
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
