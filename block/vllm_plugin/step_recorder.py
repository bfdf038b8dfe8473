"""Times executed batches and writes them into a journal, each duration with the batch that caused it.

An engine with asynchronous scheduling submits batch k + 1 and then waits for batch k. Batches end in the
order in which they were submitted, so an end belongs to the oldest one under way, and its own time starts
at its submission or at its predecessor's end, whichever was later. Knows no vLLM class but what a
scheduler's output holds.
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
class _Submitted:
    step: int
    submit_s: float
    host_s: float
    batch: Any


class StepRecorder:
    """Follows one executor; ``submitted`` and ``ready`` are called by whoever runs its batches."""

    def __init__(self, append: Callable[[JournalStep], None], clock: Callable[[], float]) -> None:
        """``append`` takes finished steps; ``clock`` tells monotonic seconds."""
        self._append = append
        self._clock = clock
        self._under_way: deque[_Submitted] = deque()
        self._step = 0
        self._submit_s = -math.inf
        self._ready_s = -math.inf
        self._own_s = 0.0
        """What this recorder itself took since the newest end; the engine is not charged for it."""

    def submitted(self, batch: Any) -> None:
        """A ``SchedulerOutput`` with tokens goes to the device now."""
        now_s = self._clock()
        host_s = math.nan
        # A request that ran before runs again, so the engine had work all the time since the last end.
        if self._ready_s > self._submit_s and batch.scheduled_cached_reqs.req_ids:
            host_s = max(0.0, now_s - self._ready_s - self._own_s)
        self._step += 1
        self._submit_s = now_s
        self._under_way.append(_Submitted(self._step, now_s, host_s, batch))

    def ready(self) -> None:
        """The oldest batch under way has ended."""
        now_s = self._clock()
        done = self._under_way.popleft()
        duration_s = now_s - max(done.submit_s, self._ready_s)
        self._ready_s = now_s
        self._append(
            JournalStep(done.step, done.submit_s, now_s, duration_s, done.host_s, batch_shape(done.batch))
        )
        self._own_s = self._clock() - now_s

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
    pairs = [
        (request, new.num_computed_tokens) for new in batch.scheduled_new_reqs for request in (new.req_id,)
    ]
    pairs += zip(cached.req_ids, computed, strict=True)
    return BatchShape.of((tokens[request], before + tokens[request]) for request, before in pairs)
