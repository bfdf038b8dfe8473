"""The clock of an emulated GPU: resolves each step's future when the step would have ended.

One thread, deadlines in submission order, each absolute: a late wake-up does not push the next one. A
caller that would do nothing but wait for the thread waits by itself. Knows nothing of what a step computes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

from block.vllm_plugin.precise_wait import PreciseWait

OutputT = TypeVar("OutputT")

KEPT_LATENESSES = 10_000


class StepTimer(Generic[OutputT]):
    """A device that executes one step at a time, in order."""

    def __init__(self) -> None:
        self._free_at_s = 0.0
        self._pending: SimpleQueue[tuple[float, Future[OutputT], OutputT] | None] = SimpleQueue()
        self._lateness_s: deque[float] = deque(maxlen=KEPT_LATENESSES)
        self._callers_wait = PreciseWait()
        self._thread = threading.Thread(target=self._run, name="emulated-gpu", daemon=True)
        self._thread.start()

    def reserve(self, latency_s: float, from_s: float | None = None, host_s: float | None = None) -> float:
        """Occupy the device for ``latency_s`` from ``from_s`` (now), or from when it is free.

        ``host_s`` is what the engine's own work since the last step's end counts for, whatever it took here;
        a pause as long as the whole step is none of it and counts in full. None counts what it took.
        Returns that step's end. Times are ``time.monotonic`` seconds.
        """
        from_s = time.monotonic() if from_s is None else from_s
        if host_s is not None and from_s < self._free_at_s + host_s + latency_s:
            from_s = self._free_at_s + host_s
        self._free_at_s = max(from_s, self._free_at_s) + latency_s
        return self._free_at_s

    def resolve_at(self, deadline_s: float, output: OutputT) -> Future[OutputT]:
        """A pending future that gets ``output`` at ``deadline_s``; call in the order of the deadlines."""
        future: Future[OutputT] = Future()
        self._pending.put((deadline_s, future, output))
        return future

    def wait_until(self, deadline_s: float) -> None:
        """Wait on the calling thread, which must always be the same one."""
        self._lateness_s.append(self._callers_wait.until(deadline_s))

    def lateness_s(self) -> list[float]:
        """How long after its deadline each recent step was resolved, oldest first."""
        return list(self._lateness_s)

    def close(self) -> None:
        """Stop the thread after the steps already submitted."""
        self._pending.put(None)
        self._thread.join()

    def _run(self) -> None:
        wait = PreciseWait()
        while (item := self._pending.get()) is not None:
            deadline_s, future, output = item
            self._lateness_s.append(wait.until(deadline_s))
            future.set_result(output)
