"""Asks predictors what would happen, in parallel, by a deadline. A late or broken one is skipped.

Knows the predictor's wire messages; knows nothing of policies.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterable, Sequence
from functools import partial

import msgspec

from block.errors import PredictorError
from block.http.message import Response
from block.messages import CandidateRequest, PredictRequest, PredictResponse, Wanted
from global_scheduler.courier import Courier
from global_scheduler.fleet import Instance
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.poll import Poll
from global_scheduler.question import Question
from global_scheduler.traffic import Tally

LATE_ALLOWANCE_S = 1.0
"""How long a late probe may go on unheeded: closing its connection would cost the next probe more."""

logger = logging.getLogger(__name__)
_ANSWER = msgspec.json.Decoder(PredictResponse)


class Asked(msgspec.Struct, frozen=True):
    """What was so when a question was sent."""

    at_s: float
    untold: tuple[CandidateRequest, ...]
    """Earlier choices that it told."""
    tally: Tally
    wanted: Wanted


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

    async def ask(self, instances: Sequence[Instance], question: Question) -> dict[str, PredictResponse]:
        """Answers by instance name; those that failed or came too late are missing.

        None at all if fewer answered than the quorum's minimum.
        """
        quorum = question.quorum
        count = self._count if quorum.probes is None else quorum.probes
        asked = self._sample([instance for instance in instances if instance.predictor], question.seed, count)
        if not asked:
            return {}
        timely = [instance for instance in asked if instance.timeliness.admits]
        poll = Poll(len(timely), quorum, unasked=len(asked) - len(timely))
        plain = self._encoded(question.candidate, (), question.wanted)
        for instance in timely:
            self._send(instance, question, plain, poll)
        if len(timely) < len(asked):
            self._check(asked, question, plain)
        if not timely:
            return {}
        await poll.settled(self._deadline_s)
        if len(poll.answers) < len(asked):
            _note_unanswered(instance for instance in asked if instance.name not in poll.answers)
        if poll.overdue:
            self._note_late(instance for instance in timely if instance.name not in poll.heard)
        self._record(answered=len(poll.answers), failed=poll.failed, late=poll.late)
        return poll.usable

    def _check(self, asked: Iterable[Instance], question: Question, plain: bytes) -> None:
        """Those who were late time and again are asked now and then, but not waited for."""
        now_s = time.monotonic()
        for instance in asked:
            if instance.timeliness.due(now_s):
                instance.timeliness.checked(well=True, now_s=now_s)
                instance.timeliness.begin()
                self._send(instance, question, plain, None)

    def _note_late(self, late: Iterable[Instance]) -> None:
        now_s = time.monotonic()
        for instance in late:
            instance.timeliness.fail(now_s)

    def _sample(self, instances: list[Instance], seed: int, count: int | None) -> list[Instance]:
        if count is None or count >= len(instances):
            return instances
        return random.Random(seed).sample(instances, count)

    def _record(self, **outcomes: int) -> None:
        """Each probe once, by what it was at the deadline."""
        for outcome, count in outcomes.items():
            self._metrics.probes.count((outcome,), count)

    def _send(self, instance: Instance, question: Question, plain: bytes, poll: Poll | None) -> None:
        """Ask one; ``plain`` is for those who know all earlier choices, and have nothing cached.

        Without a ``poll``, nobody waits for the answer.
        """
        assert instance.predictor is not None
        untold, message = self._ledger.untold(instance), plain
        if untold or instance.name in question.cached_tokens:
            message = self._encoded(question.about(instance.name), untold, question.wanted)
        patience_s = self._deadline_s + LATE_ALLOWANCE_S
        asked = Asked(time.perf_counter(), untold, instance.traffic.tally, question.wanted)
        done = partial(self._take, instance, poll, asked)
        self._courier.post(instance.predictor, b"/v1/predict", message, patience_s, done)

    def _encoded(
        self, candidate: CandidateRequest, untold: tuple[CandidateRequest, ...], wanted: Wanted
    ) -> bytes:
        return msgspec.json.encode(PredictRequest(candidate, untold, self._scenarios, wanted))

    def _take(
        self,
        instance: Instance,
        poll: Poll | None,
        asked: Asked,
        response: Response | None,
    ) -> None:
        answer = None
        try:
            answer = None if response is None else _checked(response, instance, asked.wanted)
        except PredictorError as error:
            logger.debug("predictor of %s: %s", instance.name, error)
        if answer is not None:
            if asked.untold:
                self._ledger.acknowledge(instance, [earlier.id for earlier in asked.untold])
            instance.traffic.hear(answer.load, asked.tally, time.monotonic())  # of use even if it came late
            self._metrics.probe_s.observe(time.perf_counter() - asked.at_s)
        if time.perf_counter() - asked.at_s <= self._deadline_s:
            instance.timeliness.succeed(time.monotonic())
        elif poll is None:
            instance.timeliness.fail(time.monotonic())
        if poll is not None:
            poll.take(instance.name, answer)


def _note_unanswered(instances: Iterable[Instance]) -> None:
    now_s = time.monotonic()
    for instance in instances:
        instance.traffic.miss(now_s)


def _checked(response: Response, instance: Instance, wanted: Wanted) -> PredictResponse:
    if response.status != 200:
        raise PredictorError(f"answered {response.status}")
    try:
        answer = _ANSWER.decode(response.body)
    except (ValueError, RecursionError) as error:
        raise PredictorError(f"answered what is no prediction: {error}") from error
    if answer.instance != instance.name:
        raise PredictorError(f"answered for {answer.instance!r}")
    prediction = answer.prediction
    if prediction is None:
        if wanted != "load":
            raise PredictorError("answered without a prediction")
        return answer
    times = prediction.ttft_s, prediction.e2e_s
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times):
        raise PredictorError(f"answered times that cannot be: {times}")
    return answer
