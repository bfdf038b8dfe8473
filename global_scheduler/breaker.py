"""A circuit breaker: whether one instance may have requests, by what became of those it had.

closed ── failures ──▶ open ── pause over, a check succeeds ──▶ half open ── a request succeeds ──▶ closed
                        ▲───── the check or the request fails: a longer pause ─────┘

Half open, one request tries. It may take minutes until it tells anything, so with time others may, too: twice
as many after each ``trial_s`` without an outcome. That bounds how many a still broken instance gets.

Pure: the time comes in by call, chance by a generator. Knows neither requests nor networks.
"""

from __future__ import annotations

import random
from enum import IntEnum

from block.config import BreakerSettings


class BreakerState(IntEnum):
    """In the order in which an instance is worse off; the metrics show these numbers."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


_CLOSED, _HALF_OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN
"""Asked for several times with each request, which an enumeration makes dear."""

_MOST_DOUBLINGS = 16


class Breaker:
    """One instance's. Times are any one clock's seconds that does not go back."""

    def __init__(self, rules: BreakerSettings, dice: random.Random) -> None:
        self._rules = rules
        self._dice = dice
        self.state = BreakerState.CLOSED
        self.opened = 0
        """How often it has opened."""
        self._row = 0
        """Failures since the last success."""
        self._failed = self._succeeded = 0
        """Within the window, which begins with a failure."""
        self._window_ends_s = 0.0
        self._pauses = 0
        """Since it was last closed."""
        self._until_s = 0.0
        self._trials = 0
        """Requests under way that began in the half-open state."""
        self._most_trials = 1
        self._untold_since_s: float | None = None
        """Since when such requests have told nothing; None while there are none."""

    @property
    def admits(self) -> bool:
        """Whether a request may go there now."""
        return self.state is _CLOSED or (self.state is _HALF_OPEN and self._trials < self._most_trials)

    def begin(self) -> None:
        """A request goes there; ``succeed``, ``fail`` or ``abandon`` follows."""
        if self.state is _HALF_OPEN:
            self._trials += 1

    def abandon(self) -> None:
        """It ended without telling anything of the instance: its client has left."""
        self._trials = max(0, self._trials - 1)

    def pass_time(self, now_s: float) -> None:
        """To be called now and then: lets more requests try while those that do tell nothing."""
        if self.state is not _HALF_OPEN or not self._trials:
            self._untold_since_s = None
            self._most_trials = 1
        elif self._untold_since_s is None:
            self._untold_since_s = now_s
        else:
            doublings = (now_s - self._untold_since_s) / self._rules.trial_s
            self._most_trials = 1 << min(int(doublings), _MOST_DOUBLINGS)

    def succeed(self, now_s: float) -> None:
        """It has been answered, or its first byte has come."""
        self._row = 0
        if self.state is _HALF_OPEN:
            self._close()
        elif self._failed:
            self._roll(now_s)
            self._succeeded += 1

    def fail(self, now_s: float) -> None:
        """It has failed by the instance's fault."""
        if self.state is BreakerState.HALF_OPEN:
            self.trip(now_s)
            return
        self._roll(now_s)
        self._row += 1
        self._failed += 1
        rules = self._rules
        outcomes = self._failed + self._succeeded
        many = outcomes >= rules.least_outcomes and self._failed >= rules.failure_share * outcomes
        if self.state is BreakerState.CLOSED and (self._row >= rules.failures_in_a_row or many):
            self.trip(now_s)

    def trip(self, now_s: float) -> None:
        """Open, and pause: each time in a row twice as long, less up to half of it by chance.

        So copies of a scheduler do not come back all at once.
        """
        rules = self._rules
        longest_s = min(rules.first_pause_s * 2.0 ** min(self._pauses, 32), rules.longest_pause_s)
        self._until_s = now_s + longest_s * (1 - 0.5 * self._dice.random())
        self._pauses += 1
        self.opened += self.state is BreakerState.CLOSED
        self.state = BreakerState.OPEN
        self._trials = 0
        self._row = self._failed = self._succeeded = 0

    def due(self, now_s: float) -> bool:
        """Whether it is time to check if the instance answers again."""
        return self.state is BreakerState.OPEN and now_s >= self._until_s

    def checked(self, *, well: bool, now_s: float) -> None:
        """That check's result: one request may try, or another pause begins."""
        if self.state is not BreakerState.OPEN:
            return
        if well:
            self.state = BreakerState.HALF_OPEN
            self._most_trials, self._untold_since_s = 1, None
        else:
            self.trip(now_s)

    def _close(self) -> None:
        self.state = BreakerState.CLOSED
        self._trials = 0
        self._pauses = self._failed = self._succeeded = 0

    def _roll(self, now_s: float) -> None:
        """Begin a new window if the last one is over."""
        if now_s >= self._window_ends_s:
            self._failed = self._succeeded = 0
            self._window_ends_s = now_s + self._rules.window_s
