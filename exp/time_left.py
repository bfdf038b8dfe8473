"""Progress of work that takes known times: a bar with the time left, or lines where there is no terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_EVERY_S = 0.5


class TimeLeft:
    """Counts planned seconds; each part tells beforehand what it will take."""

    def __init__(self, console: Console, planned_s: float) -> None:
        self._console = console
        self._planned_s = planned_s
        self._done_s = 0.0
        self._shown = console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(30),
            TextColumn("{task.fields[left]} left"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not self._shown)
        self._task: TaskID = self._bar.add_task("", total=planned_s, left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def plan(self, left_s: float) -> None:
        """What is still to come is known better now."""
        self._planned_s = self._done_s + left_s
        self._bar.update(self._task, total=self._planned_s)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @asynccontextmanager
    async def part(self, name: str, seconds: float, limit_s: float | None = None) -> AsyncIterator[None]:
        """Around work of about ``seconds``; TimeoutError after ``limit_s``, if given."""
        if not self._shown:
            self.note(f"{name} (about {_clock(self._planned_s - self._done_s)} left)")
        ticking = asyncio.create_task(self._tick(name, seconds))
        try:
            async with asyncio.timeout(limit_s):
                yield
        finally:
            ticking.cancel()
            self._done_s += seconds
            self._bar.update(self._task, completed=self._done_s)

    async def _tick(self, name: str, seconds: float) -> None:
        begun_s = time.monotonic()
        while True:
            # A part that takes longer than planned stands still and does not eat up the others.
            done_s = self._done_s + min(seconds, time.monotonic() - begun_s)
            left = _clock(self._planned_s - done_s)
            self._bar.update(self._task, completed=done_s, description=name, left=left)
            await asyncio.sleep(_EVERY_S)


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
