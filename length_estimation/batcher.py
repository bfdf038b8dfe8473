"""Dynamic batching: whoever asks while a batch is being computed is in the next one.

Computing happens in one thread of its own, so the event loop goes on meanwhile. There is no waiting
for a batch to fill: a lone question is answered at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from block.errors import PredictorError
from length_estimation.estimator import EstimationRequest, Estimator, LengthEstimate

MOST_WAITING = 4096
"""Beyond it, questions are refused."""

_FAILURES = (PredictorError, RuntimeError, ValueError, LookupError)
"""Our own, torch's and numpy's, and what a tokenizer of another model's makes of a network."""

_Waiting = tuple[EstimationRequest, "asyncio.Future[LengthEstimate]"]


@runtime_checkable
class BatchEstimator(Protocol):
    """An estimator to which many requests cost less than each by itself."""

    def estimate_all(self, requests: Sequence[EstimationRequest]) -> list[LengthEstimate]:
        """Estimates in the order of the requests."""
        ...


class OneByOne:
    """Any estimator as a batch estimator."""

    def __init__(self, inner: Estimator) -> None:
        self._inner = inner

    def estimate_all(self, requests: Sequence[EstimationRequest]) -> list[LengthEstimate]:
        """One after another."""
        return [self._inner.estimate(request) for request in requests]


class Batcher:
    """Asks a batch estimator on behalf of many; for one event loop."""

    def __init__(self, inner: BatchEstimator, most: int = 32) -> None:
        """``most``: largest batch."""
        self._inner = inner
        self._most = most
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lengths")
        self.batches = 0
        self.answered = 0

    @property
    def waiting(self) -> int:
        """Estimates asked for and not yet begun."""
        return len(self._waiting)

    async def estimate(self, request: EstimationRequest) -> LengthEstimate:
        """As the inner one's. Raises PredictorError if too many wait, or the inner one fails."""
        if len(self._waiting) >= MOST_WAITING:
            raise PredictorError("too many length estimates are waited for")
        future: asyncio.Future[LengthEstimate] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def close(self) -> None:
        """Stop; who still waits is cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            try:
                asked = [request for request, _ in batch]
                answers = await loop.run_in_executor(self._thread, self._inner.estimate_all, asked)
            except _FAILURES as error:
                _fail(batch, PredictorError(f"the length estimator failed: {error}"))
            else:
                self._hand_out(batch, answers)
            finally:
                for _, future in batch:
                    future.cancel()  # does nothing to those that have their answer

    def _hand_out(self, batch: list[_Waiting], answers: list[LengthEstimate]) -> None:
        self.batches += 1
        self.answered += len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _fail(batch: list[_Waiting], error: PredictorError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
