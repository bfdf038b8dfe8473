"""Which steps are under way, and how long each finished one took.

With asynchronous scheduling the engine submits step k + 1 before it waits for step k. A duration is
therefore attributed to the step that ended, and starts when that step was submitted or when its
predecessor ended, whichever was later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from block.errors import StateError
from block.types import BatchShape, InFlightStep, StepRecord
from block.vllm_plugin.capture import Capture


class StepLedger:
    """Steps in the order of their submission, which is the order of their ends."""

    def __init__(self) -> None:
        self._in_flight: deque[InFlightStep] = deque()
        self._previous_end_s = 0.0
        self.newest: dict[str, int] = {}
        """Request id -> tokens, of the newest step that is under way."""

    @property
    def in_flight(self) -> tuple[InFlightStep, ...]:
        """Submitted and not ended, oldest first; see ``InFlightStep``."""
        if not self._in_flight:
            return ()
        oldest, *newer = self._in_flight
        return replace(oldest, submit_s=max(oldest.submit_s, self._previous_end_s)), *newer

    def advance(self, capture: Capture) -> tuple[StepRecord, ...]:
        """Take in the ends and then the new step of a capture; returns the steps that ended.

        Raises StateError if a step ended that is not the oldest one under way.
        """
        finished = tuple(self._end(step, end_s) for step, end_s in capture.ended)
        if not self._in_flight:
            self.newest = {}
        if capture.scheduled:
            self.newest = capture.scheduled
            self._in_flight.append(InFlightStep(capture.step, capture.time_s, batch_shape(capture)))
        return finished

    def _end(self, step: int, end_s: float) -> StepRecord:
        if not self._in_flight or self._in_flight[0].step != step:
            raise StateError(f"step {step} ended, but under way are {[s.step for s in self._in_flight]}")
        started = self._in_flight.popleft()
        duration_s = max(0.0, end_s - max(started.submit_s, self._previous_end_s))
        self._previous_end_s = end_s
        return StepRecord(step, started.submit_s, end_s, duration_s, started.shape)


def batch_shape(capture: Capture) -> BatchShape:
    """Shape of the step that the capture just scheduled; every request in it is running."""
    scheduled, computed = capture.scheduled, capture.columns.computed
    requests = len(scheduled)
    if requests == len(capture.running) and sum(scheduled.values()) == requests:
        return BatchShape(0, requests, sum(computed), 0, requests)
    pairs = ((scheduled.get(r.request_id, 0), n) for r, n in zip(capture.running, computed, strict=True))
    return BatchShape.of((tokens, n) for tokens, n in pairs if tokens)
