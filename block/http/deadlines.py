"""Expires what is late. Setting a deadline costs an attribute, where a timer per request costs far more."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

TICK_S = 0.1
NEVER_S = math.inf


class Timed(Protocol):
    """Something with a deadline, by the clock of its event loop; ``NEVER_S`` for none."""

    deadline_s: float

    def expire(self) -> None:
        """The deadline has passed."""
        ...


class Deadlines:
    """Looks every ``TICK_S`` at all that is watched, so deadlines are kept to about that."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: set[Timed] = set()
        self._next: asyncio.TimerHandle | None = None

    def watch(self, item: Timed) -> None:
        """Look at it from now on."""
        self._watched.add(item)
        if self._next is None:
            self._next = self._loop.call_later(TICK_S, self._sweep)

    def forget(self, item: Timed) -> None:
        """Look at it no more."""
        self._watched.discard(item)

    def close(self) -> None:
        """Stop looking."""
        self._watched.clear()
        if self._next is not None:
            self._next.cancel()

    def _sweep(self) -> None:
        now_s = self._loop.time()
        late = [item for item in self._watched if item.deadline_s <= now_s]
        self._next = self._loop.call_later(TICK_S, self._sweep) if self._watched else None
        for item in late:
            if item in self._watched and item.deadline_s <= now_s:  # expiring one may have settled another
                item.expire()
