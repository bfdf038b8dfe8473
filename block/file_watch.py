"""Notices that files have changed, by looking at them every so often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

EVERY_S = 5.0

_Stamp = tuple[int, int, int] | None


class FileWatch:
    """For the running event loop; ends with ``stop``."""

    def __init__(self, files: Iterable[Path], changed: Callable[[], None], every_s: float = EVERY_S) -> None:
        """``changed`` is called once for all that has changed between two looks, and must not raise."""
        self._files = tuple(files)
        self._changed = changed
        self._every_s = every_s
        self._seen = self._stamps()
        self._timer: asyncio.TimerHandle | None = None
        if self._files:
            self._look_again()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def _look(self) -> None:
        self._look_again()
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            self._changed()

    def _stamps(self) -> list[_Stamp]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> _Stamp:
    """None while it is not there: a file is often replaced by taking the old one away first."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
