"""Instances that were taken off the schedulers' lists: which of them may be ended. Pure.

One that has requests is never ended; one whose engine cannot be asked any more, after a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

_QUIET_LOOKS = 2
"""Looks in a row that must find it idle: a request may be on its way to it."""


@dataclass(slots=True)
class Leaving:
    """One of them."""

    heard_s: float
    """When its engine said something, or it was first seen to leave."""
    since_s: float
    quiet: int = 0
    gone: bool = False
    """It has no engine that runs."""
    warned: bool = False

    @classmethod
    def begun(cls, now_s: float) -> Self:
        """It leaves from now on."""
        return cls(heard_s=now_s, since_s=now_s)

    def note(self, now_s: float, outstanding: int | None) -> None:
        """How many requests it has; None if it did not say."""
        if outstanding is None:
            return
        self.heard_s = now_s
        self.quiet = 0 if outstanding else self.quiet + 1

    def may_end(self, now_s: float, patience_s: float) -> bool:
        """Whether nobody loses anything by it."""
        return self.gone or self.quiet >= _QUIET_LOOKS or now_s - self.heard_s > patience_s
