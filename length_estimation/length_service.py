"""Response lengths in the serving path: an estimate within the deadline for every request.

A quick estimator answers at once; a slow one (a network, another host) is asked beside the event loop,
and what comes late is remembered for the next time while ``history`` answers in its place. Completed
requests teach ``history`` and the recalibration. Knows nothing of HTTP requests or instances.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from msgspec.structs import replace

from block.errors import BlockError
from length_estimation.estimator import Completion, EstimationRequest, Estimator, Learner, LengthEstimate
from length_estimation.prompt_text import HEAD, MOST_JSON_BYTES, TAIL
from length_estimation.recalibration import Recalibration

SlowEstimate = Callable[[EstimationRequest], Awaitable[LengthEstimate]]
"""May take its time, and may raise BlockError."""

MOST_PENDING: Final = 65_536
"""Requests remembered until they complete; the oldest go first."""
MOST_UNDER_WAY: Final = 64
"""Questions to a slow estimator that may be open; beyond it, the fallback answers at once."""


@dataclass(slots=True)
class LengthTally:
    """How the estimates came about."""

    cached: int = 0
    asked: int = 0
    """Of the estimator itself, where it is a trained or a remote one."""
    late: int = 0
    """Not there when the deadline was over."""
    failed: int = 0
    refused: int = 0
    """Not asked, because too many questions were open."""
    learned: int = 0


@dataclass(frozen=True, slots=True)
class _Pending:
    """What was said of a request that is under way."""

    request: EstimationRequest
    estimate: LengthEstimate
    corrected: bool
    """Whether recalibration had its say, and is to learn."""


class LengthService:
    """Estimates lengths and learns from completions; for one event loop."""

    def __init__(
        self,
        *,
        quick: Estimator,
        slow: SlowEstimate | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
        recalibration: Recalibration | None = None,
        deadline_s: float = 0.01,
        cache_entries: int = 4096,
    ) -> None:
        """``quick`` answers if there is no ``slow`` estimator, and in its place when it is late.

        Only estimators that depend on nothing but prompt, its tokens, model and temperature may be cached.
        """
        self._quick = quick
        self._slow = slow
        self._on_close = on_close
        self._recalibration = recalibration
        self._deadline_s = deadline_s
        self._cache: OrderedDict[bytes, LengthEstimate] = OrderedDict()
        self._cache_entries = cache_entries
        self._under_way: dict[bytes, asyncio.Task[LengthEstimate | None]] = {}
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self.learns = isinstance(quick, Learner) or recalibration is not None
        """Whether completed requests teach anything; if not, nobody need report or count them."""
        self.tally = LengthTally()

    @property
    def slow(self) -> bool:
        """Whether an estimate may have to be waited for."""
        return self._slow is not None

    def estimate_at_once(self, request_id: str, request: EstimationRequest) -> LengthEstimate:
        """The response's length; only if none has to be waited for. Never raises."""
        return self._finished(request_id, request, self._look_up(request))

    async def estimate(self, request_id: str, request: EstimationRequest) -> LengthEstimate:
        """The same in either case, at the latest when the deadline is over."""
        if self._slow is None:
            return self.estimate_at_once(request_id, request)
        return self._finished(request_id, request, await self._ask(self._slow, request))

    def _finished(
        self, request_id: str, request: EstimationRequest, said: LengthEstimate | None
    ) -> LengthEstimate:
        """``said`` corrected; or the quick one's word, if nothing was said."""
        correcting = said is not None and self._recalibration is not None
        estimate = self._quick.estimate(request) if said is None else said
        if correcting and self._recalibration is not None:
            estimate = self._recalibration.correct(estimate, request)
        if self.learns:
            self._remember(request_id, _Pending(replace(request, prompt_json=b""), estimate, correcting))
        return estimate

    def completed(self, request_id: str, output_tokens: int, *, cut: bool = False) -> None:
        """A request is over; ``cut`` if it ended at its limit (``finish_reason`` is ``length``)."""
        pending = self._pending.pop(request_id, None)
        if pending is None or output_tokens < 1:
            return
        completion = Completion(pending.request, pending.estimate, output_tokens, cut)
        self.tally.learned += 1
        if isinstance(self._quick, Learner):
            self._quick.learn(completion)
        if self._recalibration is not None and pending.corrected:
            self._recalibration.learn(completion)

    def abandoned(self, request_id: str) -> None:
        """A request ended without a whole response: it says nothing about lengths."""
        self._pending.pop(request_id, None)

    @property
    def corrections(self) -> dict[str, int]:
        """Completed requests that the recalibration has learned from, by model."""
        return {} if self._recalibration is None else self._recalibration.counts

    def reset(self, model: str | None = None) -> None:
        """Forget what was learned of a model, or of all.

        Of estimates, all that are kept: a service elsewhere may have another model of its own by now.
        """
        self._cache.clear()
        if isinstance(self._quick, Learner):
            self._quick.reset(model)
        if self._recalibration is not None:
            self._recalibration.reset(model)

    async def close(self) -> None:
        """Drop the questions that are open."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._on_close is not None:
            await self._on_close()

    def _remember(self, request_id: str, pending: _Pending) -> None:
        self._pending[request_id] = pending
        if len(self._pending) > MOST_PENDING:
            self._pending.popitem(last=False)

    def _look_up(self, request: EstimationRequest) -> LengthEstimate:
        """From the cache, or asked at once and kept."""
        if not self._cache_entries:
            return self._quick.estimate(request)
        key = _key(request)
        known = self._cached(key, request)
        if known is None:
            self.tally.asked += 1
            known = self._quick.estimate(request)
            self._keep(key, known)
        return known

    async def _ask(self, slow: SlowEstimate, request: EstimationRequest) -> LengthEstimate | None:
        """From the cache or from the slow estimator; None if it is late, has failed or is not asked."""
        key = _key(request)
        known = self._cached(key, request)
        if known is not None:
            return known
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MOST_UNDER_WAY:
                self.tally.refused += 1
                return None
            task = asyncio.create_task(self._fetch(slow, key, request))
            self._under_way[key] = task
        done, _ = await asyncio.wait({task}, timeout=self._deadline_s)
        if not done:
            self.tally.late += 1
            return None
        if task.cancelled():  # the estimator is being closed
            return None
        answer = task.result()
        return None if answer is None else _bounded(answer, request)

    async def _fetch(
        self, slow: SlowEstimate, key: bytes, request: EstimationRequest
    ) -> LengthEstimate | None:
        self.tally.asked += 1
        try:
            answer = await slow(request)
        except (BlockError, OSError):
            self.tally.failed += 1
            return None
        finally:
            self._under_way.pop(key, None)
        self._keep(key, answer)
        return answer

    def _cached(self, key: bytes, request: EstimationRequest) -> LengthEstimate | None:
        known = self._cache.get(key)
        if known is None:
            return None
        self._cache.move_to_end(key)
        self.tally.cached += 1
        return _bounded(known, request)

    def _keep(self, key: bytes, estimate: LengthEstimate) -> None:
        if not self._cache_entries:
            return
        self._cache[key] = estimate
        if len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)


def _key(request: EstimationRequest) -> bytes:
    """Digest of what the estimate depends on: of a long prompt that is its ends, see ``prompt_text``.

    Tokens count what the prompt does not show: tools.
    """
    prompt = request.prompt_json
    if len(prompt) > MOST_JSON_BYTES:
        prompt = b"%d %b%b" % (len(prompt), prompt[:HEAD], prompt[-TAIL:])
    about = b"%d|%a|%a" % (request.prompt_tokens, request.model, request.temperature)
    return blake2b(b"%b|%b" % (about, prompt), digest_size=16).digest()


def _bounded(estimate: LengthEstimate, request: EstimationRequest) -> LengthEstimate:
    """The same distribution under this request's limit."""
    levels = [level for level, _ in estimate.quantiles]
    tokens = estimate.unbounded or [value for _, value in estimate.quantiles]
    return LengthEstimate.of(levels, tokens, request.max_tokens, estimate.source, estimate.version)
