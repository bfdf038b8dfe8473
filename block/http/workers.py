"""Several processes that do the same: started, started again when they die, ended together."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable

RESTART_S = 1.0
"""Before a worker that died is replaced, so that one which cannot live does not keep the machine busy."""

logger = logging.getLogger(__name__)

Work = Callable[[int, int], None]
"""What a worker does. Gets its number, and a file descriptor that becomes readable when the supervisor
has died."""


def supervise(count: int, work: Work) -> None:
    """Keep ``count`` workers running until SIGTERM or SIGINT, which they are handed; return when all ended.

    SIGHUP is handed to them, too, and ends nothing.

    Forks, so it must be called before any thread or event loop is started.
    """
    supervisor = _Supervisor(work)
    for number in range(count):
        supervisor.fork(number)
    supervisor.wait()


class _Supervisor:
    def __init__(self, work: Work) -> None:
        self._work = work
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
        pid = os.fork()
        if pid == 0:
            os.close(self._held)
            _work_and_exit(self._work, number, self._lifeline)
        self._workers[pid] = number

    def wait(self) -> None:
        while self._workers:
            pid, status = os.wait()
            number = self._workers.pop(pid, None)
            if self._ending or number is None:
                continue
            logger.error("worker %d ended with status %d; another takes its place", pid, status)
            time.sleep(RESTART_S)
            if not self._ending:
                self.fork(number)

    def _end(self, ending: int, _: object) -> None:
        self._ending = True
        self._hand_on(ending, _)

    def _hand_on(self, number: int, _: object) -> None:
        for pid in self._workers:
            os.kill(pid, number)


def _work_and_exit(work: Work, number: int, lifeline: int) -> None:
    """The worker's whole life: nothing of the supervisor's may run in it afterwards."""
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing to read again yet
    status = 1
    try:
        work(number, lifeline)
        status = 0
    except Exception:
        logger.exception("a worker failed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
