"""Several processes that do the same: started, started again when they die or hang, ended together."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from functools import partial

RESTART_S = 1.0
"""Before a worker that died is replaced, so that one which cannot live does not keep the machine busy."""

LOOK_S = 0.1
SILENCE_S = 20.0
"""Since its last sign of life, after which a worker is replaced: the kernel would go on dealing connections
out to it. Generous, for a machine may be busy."""
_TIME = struct.Struct("d")
_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

logger = logging.getLogger(__name__)

Pulse = Callable[[], None]
Work = Callable[[int, int, Pulse], None]
"""What a worker does. Gets its number, a file descriptor that becomes readable when the supervisor has died,
and what to call once and again as a sign of life. Before the first one it may take its time."""


def supervise(count: int, work: Work, silence_s: float = SILENCE_S) -> None:
    """Keep ``count`` workers running until SIGTERM or SIGINT, which they are handed; return when all ended.

    SIGHUP is handed to them, too, and ends nothing.

    Forks, so it must be called before any thread or event loop is started.
    """
    supervisor = _Supervisor(work, count, silence_s)
    for number in range(count):
        supervisor.fork(number)
    supervisor.wait()


class _Supervisor:
    def __init__(self, work: Work, count: int, silence_s: float) -> None:
        self._work = work
        self._silence_s = silence_s
        self._pulses = mmap.mmap(-1, count * _TIME.size)
        """When each was last heard of; shared with all workers."""
        self._workers: dict[int, int] = {}
        """Process id -> number; a successor takes over the number."""
        self._ending = False
        self._lifeline, self._held = os.pipe()  # nobody writes: it is readable once the other end is closed
        for ending in (signal.SIGTERM, signal.SIGINT):
            signal.signal(ending, self._end)
        signal.signal(signal.SIGHUP, self._hand_on)

    def fork(self, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._note_pulse(number, 0.0)
        # A signal that came between the next lines would be handed to all but the new one, or be taken by
        # the new one in the supervisor's place.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
        pid = os.fork()
        if pid == 0:
            os.close(self._held)
            _work_and_exit(partial(self._work, number, self._lifeline, partial(self._note_pulse, number)))
        self._workers[pid] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)

    def wait(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                self._end_silent(time.monotonic())
                time.sleep(LOOK_S)
                continue
            number = self._workers.pop(pid, None)
            if self._ending or number is None:
                continue
            logger.error("worker %d ended with status %d; another takes its place", pid, status)
            time.sleep(RESTART_S)
            if not self._ending:
                self.fork(number)

    def _note_pulse(self, number: int, now_s: float | None = None) -> None:
        _TIME.pack_into(self._pulses, number * _TIME.size, time.monotonic() if now_s is None else now_s)

    def _end_silent(self, now_s: float) -> None:
        """By force, for one that is stopped or hangs heeds nothing else."""
        for pid, number in self._workers.items():
            (heard_s,) = _TIME.unpack_from(self._pulses, number * _TIME.size)
            if heard_s and now_s - heard_s > self._silence_s:
                logger.error("worker %d has given no sign of life for %.1f s", pid, now_s - heard_s)
                self._note_pulse(number, 0.0)
                os.kill(pid, signal.SIGKILL)

    def _end(self, ending: int, _: object) -> None:
        self._ending = True
        self._hand_on(ending, _)

    def _hand_on(self, number: int, _: object) -> None:
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(pid, number)


def _work_and_exit(work: Callable[[], None]) -> None:
    """The worker's whole life: nothing of the supervisor's may run in it afterwards."""
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing to read again yet
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
    status = 1
    try:
        work()
        status = 0
    except Exception:
        logger.exception("a worker failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
