"""Asks predictors what would happen, in parallel, by a deadline. A late or broken one is skipped.

Knows the predictor's wire messages; knows nothing of policies.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from block.errors import PredictorError
from block.http.message import Response
from block.messages import CandidateRequest, PredictRequest, PredictResponse
from global_scheduler.courier import Courier
from global_scheduler.fleet import Instance
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import SchedulerMetrics

LATE_ALLOWANCE_S = 1.0
"""How long a late probe may go on unheeded: closing its connection would cost the next probe more."""

logger = logging.getLogger(__name__)
_ANSWER = msgspec.json.Decoder(PredictResponse)


class Prober:
    """Probes up to ``count`` predictors per request; None means all."""

    def __init__(
        self,
        courier: Courier,
        ledger: Ledger,
        metrics: SchedulerMetrics,
        deadline_s: float,
        count: int | None,
        scenarios: int,
    ) -> None:
        self._courier = courier
        self._ledger = ledger
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._count = count
        self._scenarios = scenarios

    async def ask(
        self, instances: Sequence[Instance], candidate: CandidateRequest, seed: int
    ) -> dict[str, PredictResponse]:
        """Answers by instance name; those that failed or came too late are missing."""
        asked = self._sample([instance for instance in instances if instance.predictor], seed)
        if not asked:
            return {}
        poll = _Poll(len(asked))
        plain = msgspec.json.encode(PredictRequest(candidate, (), self._scenarios))
        for instance in asked:
            self._send(instance, candidate, plain, poll)
        await poll.settled(self._deadline_s)
        self._record(
            answered=len(poll.answers),
            failed=poll.failed,
            late=len(asked) - len(poll.answers) - poll.failed,
        )
        return poll.answers

    def _sample(self, instances: list[Instance], seed: int) -> list[Instance]:
        if self._count is None or self._count >= len(instances):
            return instances
        return random.Random(seed).sample(instances, self._count)

    def _record(self, **outcomes: int) -> None:
        """Each probe once, by what it was at the deadline."""
        for outcome, count in outcomes.items():
            self._metrics.probes.labels(outcome).inc(count)

    def _send(self, instance: Instance, candidate: CandidateRequest, plain: bytes, poll: _Poll) -> None:
        """Ask one; ``plain`` is the question as it goes to those who know all earlier choices."""
        assert instance.predictor is not None
        untold = self._ledger.untold(instance)
        question = plain
        if untold:
            question = msgspec.json.encode(PredictRequest(candidate, untold, self._scenarios))
        patience_s = self._deadline_s + LATE_ALLOWANCE_S
        done = partial(self._take, instance, untold, poll)
        self._courier.post(instance.predictor, b"/v1/predict", question, patience_s, done)

    def _take(
        self,
        instance: Instance,
        untold: tuple[CandidateRequest, ...],
        poll: _Poll,
        response: Response | None,
    ) -> None:
        answer = None
        try:
            answer = None if response is None else _checked(response, instance)
        except PredictorError as error:
            logger.debug("predictor of %s: %s", instance.name, error)
        if answer is not None:
            if untold:
                self._ledger.acknowledge(instance, [earlier.id for earlier in untold])
            self._metrics.probe_s.observe(time.perf_counter() - poll.started_s)
        poll.take(instance.name, answer)


class _Poll:
    """The answers to one question."""

    def __init__(self, asked: int) -> None:
        self.answers: dict[str, PredictResponse] = {}
        self.failed = 0
        self.started_s = time.perf_counter()
        self._asked = asked
        self._settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, name: str, answer: PredictResponse | None) -> None:
        """One predictor has answered, or failed; too late, it changes nothing any more."""
        if self._settled.done():
            return
        if answer is None:
            self.failed += 1
        else:
            self.answers[name] = answer
        if len(self.answers) + self.failed == self._asked:
            self._settled.set_result(None)

    async def settled(self, deadline_s: float) -> None:
        """Wait for all, but no longer than ``deadline_s``."""
        timer = self._settled.get_loop().call_later(deadline_s, self._close)
        try:
            await self._settled
        finally:
            timer.cancel()

    def _close(self) -> None:
        if not self._settled.done():
            self._settled.set_result(None)


def _checked(response: Response, instance: Instance) -> PredictResponse:
    if response.status != 200:
        raise PredictorError(f"answered {response.status}")
    try:
        answer = _ANSWER.decode(response.body)
    except (ValueError, RecursionError) as error:
        raise PredictorError(f"answered what is no prediction: {error}") from error
    if answer.instance != instance.name:
        raise PredictorError(f"answered for {answer.instance!r}")
    times = answer.prediction.ttft_s, answer.prediction.e2e_s
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times):
        raise PredictorError(f"answered times that cannot be: {times}")
    return answer
