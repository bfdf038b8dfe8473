"""How long to wait before a process that has ended is started again. Pure."""

from __future__ import annotations

_FIRST_S = 0.5
_LONGEST_S = 30.0
_WELL_AFTER_S = 60.0
"""Whoever has lived so long is not the one that cannot start."""


class RestartPauses:
    """Of one process: each in a row twice as long."""

    def __init__(self) -> None:
        self._next_s = _FIRST_S

    def next_s(self, lived_s: float) -> float:
        """Before the start that follows a life of ``lived_s``."""
        if lived_s >= _WELL_AFTER_S:
            self._next_s = _FIRST_S
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, _LONGEST_S)
        return pause_s
