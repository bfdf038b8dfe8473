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

import aiohttp
import msgspec
from yarl import URL

from block.errors import PredictorError
from block.messages import CandidateRequest, PredictRequest, PredictResponse
from global_scheduler.fleet import Instance
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.poll import Poll
from global_scheduler.quorum import Quorum

MAX_ANSWER_BYTES = 64 * 1024
LATE_ALLOWANCE_S = 1.0
"""How long a late probe may go on unheeded: closing its connection would cost the next probe more."""

_ALL = Quorum()
logger = logging.getLogger(__name__)
_ANSWER = msgspec.json.Decoder(PredictResponse)


class Prober:
    """Probes up to ``count`` predictors per request; None means all."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        ledger: Ledger,
        metrics: SchedulerMetrics,
        deadline_s: float,
        count: int | None,
        scenarios: int,
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._count = count
        self._scenarios = scenarios
        self._timeout = aiohttp.ClientTimeout(total=deadline_s + LATE_ALLOWANCE_S)
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(
        self, instances: Sequence[Instance], candidate: CandidateRequest, seed: int, quorum: Quorum = _ALL
    ) -> dict[str, PredictResponse]:
        """Answers by instance name; those that failed or came too late are missing.

        None at all if fewer answered than the quorum's minimum.
        """
        count = self._count if quorum.probes is None else quorum.probes
        asked = self._sample([instance for instance in instances if instance.predictor_url], seed, count)
        if not asked:
            return {}
        poll = Poll(len(asked), quorum)
        for instance in asked:
            self._spawn(instance, candidate, poll)
        await poll.settled(self._deadline_s)
        self._record(answered=len(poll.answers), failed=poll.failed, late=poll.late)
        return poll.usable

    async def close(self) -> None:
        """Drop the probes that are still out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _sample(self, instances: list[Instance], seed: int, count: int | None) -> list[Instance]:
        if count is None or count >= len(instances):
            return instances
        return random.Random(seed).sample(instances, count)

    def _record(self, **outcomes: int) -> None:
        """Each probe once, by what it was at the deadline."""
        for outcome, count in outcomes.items():
            self._metrics.probes.labels(outcome).inc(count)

    def _spawn(self, instance: Instance, candidate: CandidateRequest, poll: Poll) -> None:
        task = asyncio.create_task(self._probe(instance, candidate, poll))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self, instance: Instance, candidate: CandidateRequest, poll: Poll) -> None:
        poll.take(instance.name, await self._answer(instance, candidate))

    async def _answer(self, instance: Instance, candidate: CandidateRequest) -> PredictResponse | None:
        started_s = time.perf_counter()
        untold, tally = self._ledger.untold(instance), instance.traffic.tally
        question = PredictRequest(candidate, untold, self._scenarios)
        try:
            answer = await self._post(instance, msgspec.json.encode(question))
        except TimeoutError:
            return None  # counted as late when the deadline passed
        except (aiohttp.ClientError, OSError, PredictorError) as error:
            logger.debug("predictor of %s: %s", instance.name, error)
            return None
        self._ledger.acknowledge(instance, [earlier.id for earlier in untold])
        instance.traffic.hear(answer.load, tally, time.monotonic())  # of use even if it came late
        took_s = time.perf_counter() - started_s
        self._metrics.probe_s.observe(took_s)
        return answer

    async def _post(self, instance: Instance, question: bytes) -> PredictResponse:
        async with self._session.post(
            URL(f"{instance.predictor_url}/v1/predict", encoded=True),
            data=question,
            headers={"Content-Type": "application/json"},
            timeout=self._timeout,
        ) as response:
            if response.status != 200:
                raise PredictorError(f"answered {response.status}")
            if response.content_length is None or response.content_length > MAX_ANSWER_BYTES:
                raise PredictorError("answered without a length, or with too much")
            return _checked(await response.read(), instance)


def _checked(body: bytes, instance: Instance) -> PredictResponse:
    try:
        answer = _ANSWER.decode(body)
    except (ValueError, RecursionError) as error:
        raise PredictorError(f"answered what is no prediction: {error}") from error
    if answer.instance != instance.name:
        raise PredictorError(f"answered for {answer.instance!r}")
    times = answer.prediction.ttft_s, answer.prediction.e2e_s
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times):
        raise PredictorError(f"answered times that cannot be: {times}")
    return answer
