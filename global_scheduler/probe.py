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
from typing import TypeVar

import msgspec

from block.errors import PredictorError
from block.http.message import Response
from block.http.origin import Origin
from block.messages import (
    CandidateRequest,
    InstanceQuestion,
    PredictRequest,
    PredictResponse,
    PredictSharedRequest,
    PredictSharedResponse,
    Wanted,
)
from global_scheduler.courier import Courier
from global_scheduler.fleet import Instance
from global_scheduler.ledger import Ledger
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.poll import Poll
from global_scheduler.question import Question
from global_scheduler.traffic import Tally

MOST_TOGETHER = 16
"""Predictors of one port that one message asks; more would have the first wait long for the last."""
LATE_ALLOWANCE_S = 1.0
"""How long a late probe may go on unheeded: closing its connection would cost the next probe more."""

logger = logging.getLogger(__name__)
_ANSWER = msgspec.json.Decoder(PredictResponse)
_ANSWERS = msgspec.json.Decoder(PredictSharedResponse)
AnswerT = TypeVar("AnswerT")


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
        self._patience_s = deadline_s + LATE_ALLOWANCE_S
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
        self._send_all(timely, question, poll)
        if len(timely) < len(asked):
            self._check(asked, question)
        if not timely:
            return {}
        await poll.settled(self._deadline_s)
        if len(poll.answers) < len(asked):
            _note_unanswered(instance for instance in asked if instance.name not in poll.answers)
        if poll.overdue:
            self._note_late(instance for instance in timely if instance.name not in poll.heard)
        self._record(answered=len(poll.answers), failed=poll.failed, late=poll.late)
        return poll.usable

    def _check(self, asked: Iterable[Instance], question: Question) -> None:
        """Those who were late time and again are asked now and then, but not waited for."""
        now_s = time.monotonic()
        for instance in asked:
            if instance.timeliness.due(now_s):
                instance.timeliness.checked(well=True, now_s=now_s)
                instance.timeliness.begin()
                plain = self._encoded(question.candidate, (), question.wanted)
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

    def _send_all(self, instances: Sequence[Instance], question: Question, poll: Poll) -> None:
        """Those whose predictors share a port are asked together."""
        plain = self._encoded(question.candidate, (), question.wanted)
        shared: dict[tuple[Origin, bytes], list[Instance]] = {}
        for instance in instances:
            if instance.shared is None:
                self._send(instance, question, plain, poll)
            else:
                shared.setdefault(instance.shared, []).append(instance)
        for place, together in shared.items():
            for first in range(0, len(together), MOST_TOGETHER):
                self._send_shared(place, together[first : first + MOST_TOGETHER], question, poll)

    def _send(self, instance: Instance, question: Question, plain: bytes, poll: Poll | None) -> None:
        """Ask one; ``plain`` is for those who know all earlier choices, and have nothing cached.

        Without a ``poll``, nobody waits for the answer.
        """
        assert instance.predictor is not None
        asked, message = self._asked(instance, question), plain
        if asked.untold or instance.name in question.cached_tokens:
            message = self._encoded(question.about(instance.name), asked.untold, question.wanted)
        done = partial(self._take, instance, poll, asked)
        self._courier.post(instance.predictor, b"/v1/predict", message, self._patience_s, done)

    def _send_shared(
        self, place: tuple[Origin, bytes], instances: Sequence[Instance], question: Question, poll: Poll
    ) -> None:
        """Ask several at once."""
        asked = [(instance, self._asked(instance, question)) for instance in instances]
        questions = tuple(
            [
                InstanceQuestion(one.name, each.untold, question.cached_tokens.get(one.name, 0))
                for one, each in asked
            ]
        )
        message = PredictSharedRequest(question.candidate, questions, self._scenarios, question.wanted)
        done = partial(self._take_shared, poll, asked)
        self._courier.post(place, b"/v1/predict/shared", msgspec.json.encode(message), self._patience_s, done)

    def _asked(self, instance: Instance, question: Question) -> Asked:
        untold, tally = self._ledger.untold(instance), instance.traffic.tally
        return Asked(time.perf_counter(), untold, tally, question.wanted)

    def _encoded(
        self, candidate: CandidateRequest, untold: tuple[CandidateRequest, ...], wanted: Wanted
    ) -> bytes:
        return msgspec.json.encode(PredictRequest(candidate, untold, self._scenarios, wanted))

    def _take(self, instance: Instance, poll: Poll | None, asked: Asked, response: Response | None) -> None:
        answer = None
        try:
            if response is not None:
                answer = _checked(_decoded(response, _ANSWER), instance, asked.wanted)
        except PredictorError as error:
            logger.debug("predictor of %s: %s", instance.name, error)
        self._hear(instance, poll, asked, answer)

    def _take_shared(
        self, poll: Poll, asked: Sequence[tuple[Instance, Asked]], response: Response | None
    ) -> None:
        answers: dict[str, PredictResponse] = {}
        try:
            if response is not None:
                answers = {one.instance: one for one in _decoded(response, _ANSWERS).answers}
        except PredictorError as error:
            logger.debug("predictors of %s: %s", ", ".join(one.name for one, _ in asked), error)
        for instance, each in asked:
            answer = answers.get(instance.name)
            try:
                answer = answer and _checked(answer, instance, each.wanted)
            except PredictorError as error:
                logger.debug("predictor of %s: %s", instance.name, error)
                answer = None
            self._hear(instance, poll, each, answer)

    def _hear(
        self, instance: Instance, poll: Poll | None, asked: Asked, answer: PredictResponse | None
    ) -> None:
        """Its predictor has answered, or failed (None)."""
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


def _decoded(response: Response, decoder: msgspec.json.Decoder[AnswerT]) -> AnswerT:
    if response.status != 200:
        raise PredictorError(f"answered {response.status}")
    try:
        return decoder.decode(response.body)
    except (ValueError, RecursionError) as error:
        raise PredictorError(f"answered what is no prediction: {error}") from error


def _checked(answer: PredictResponse, instance: Instance, wanted: Wanted) -> PredictResponse:
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
