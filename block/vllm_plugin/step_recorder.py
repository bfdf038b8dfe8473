"""Times executed batches and writes them into a journal, each duration with the batch that caused it.

An engine with asynchronous scheduling submits batch k + 1 and then waits for batch k. Batches end in the
order in which they were submitted, so an end belongs to the oldest one under way, and its own time starts
at its submission or at its predecessor's end, whichever was later. What ended is written down only
when the next batch is under way, so that nobody waits for it. Knows no vLLM class but what a scheduler's
output holds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from block.latency.journal import JournalStep
from block.types import BatchShape


@dataclass(slots=True)
class _Timed:
    step: int
    submit_s: float
    host_s: float
    batch: Any
    ready_s: float = math.nan
    duration_s: float = math.nan


class StepRecorder:
    """Follows one executor, whose batches are told by ``submitted`` and ``ready``.

    ``write`` is to be called now and then. ``ready`` may be called on another thread than the others.
    """

    def __init__(self, append: Callable[[JournalStep], None], clock: Callable[[], float]) -> None:
        """``append`` takes finished steps; ``clock`` tells monotonic seconds."""
        self._append = append
        self._clock = clock
        self._under_way: deque[_Timed] = deque()
        self._ended: deque[_Timed] = deque()
        self._step = 0
        self._submit_s = -math.inf
        self._ready_s = -math.inf

    def submitted(self, batch: Any) -> None:
        """A ``SchedulerOutput`` with tokens goes to the device now."""
        now_s = self._clock()
        host_s = math.nan
        # A request that ran before runs again, so the engine had work all the time since the last end.
        if self._ready_s > self._submit_s and batch.scheduled_cached_reqs.req_ids:
            host_s = max(0.0, now_s - self._ready_s)
        self._step += 1
        self._submit_s = now_s
        self._under_way.append(_Timed(self._step, now_s, host_s, batch))

    def ready(self) -> None:
        """The oldest batch under way has ended."""
        now_s = self._clock()
        done = self._under_way.popleft()
        done.ready_s, done.duration_s = now_s, now_s - max(done.submit_s, self._ready_s)
        self._ready_s = now_s
        self._ended.append(done)

    def write(self) -> None:
        """Hand on what has ended since the last call; best called while the device is busy."""
        while self._ended:
            done = self._ended.popleft()
            shape = batch_shape(done.batch)
            self._append(
                JournalStep(done.step, done.submit_s, done.ready_s, done.duration_s, done.host_s, shape)
            )

    def dropped(self) -> None:
        """The newest batch submitted will not end: its execution failed."""
        self._under_way.pop()


def batch_shape(batch: Any) -> BatchShape:
    """Shape of a vLLM ``SchedulerOutput``."""
    tokens = batch.num_scheduled_tokens
    cached = batch.scheduled_cached_reqs
    computed = cached.num_computed_tokens
    if not batch.scheduled_new_reqs and batch.total_num_scheduled_tokens == len(cached.req_ids):
        decodes = len(computed)
        return BatchShape(0, decodes, sum(computed) + decodes, 0, decodes)
    pairs = [(new.req_id, new.num_computed_tokens) for new in batch.scheduled_new_reqs]
    pairs += zip(cached.req_ids, computed, strict=True)
    return BatchShape.of((tokens[request], before + tokens[request]) for request, before in pairs)
