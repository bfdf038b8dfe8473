"""Waiting until a moment, exact to some microseconds: sleeps most of the way, watches the clock for the rest.

A sleep ends late by what the kernel and a virtual machine take to wake a thread up; how much is learned,
and the last stretch is as long as that usually is. One object per thread. Linux only gains from it: where
the kernel's timer slack cannot be set, waits are merely less exact.
"""

from __future__ import annotations

import ctypes
import time

_PR_SET_TIMERSLACK = 29
_LEAST_LEAD_S = 10e-6
_MOST_LEAD_S = 150e-6
_LEARNING_S = 2e-6
_QUANTILE = 0.9


class PreciseWait:
    """Waits of the thread that calls it; ``time.monotonic`` seconds."""

    def __init__(self) -> None:
        self._sharp = False
        self._lead_s = 50e-6

    def until(self, deadline_s: float) -> float:
        """Return at ``deadline_s``, at once if it has passed; returns how late that is."""
        if not self._sharp:
            self._sharp = True
            _sharpen_this_thread()
        wake_s = deadline_s - self._lead_s
        now_s = time.monotonic()
        if now_s < wake_s:
            time.sleep(wake_s - now_s)
            now_s = time.monotonic()
            self._learn(now_s - wake_s)
        while now_s < deadline_s:
            now_s = time.monotonic()
        return now_s - deadline_s

    def _learn(self, late_s: float) -> None:
        """Follow the lateness that nine in ten sleeps stay below."""
        step_s = _LEARNING_S * (_QUANTILE if late_s > self._lead_s else _QUANTILE - 1.0)
        self._lead_s = min(max(self._lead_s + step_s, _LEAST_LEAD_S), _MOST_LEAD_S)


def _sharpen_this_thread() -> None:
    """Let sleeps of this thread end on time instead of within the default 50 us."""
    control = getattr(ctypes.CDLL(None), "prctl", None)
    if control is not None:
        control(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
