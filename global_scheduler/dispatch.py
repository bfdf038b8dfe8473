"""Carries a decision out: tries the instances in order until one gives a first byte, then stays with it."""

from __future__ import annotations

import asyncio
import random
import time

import msgspec

from block.config import SchedulerSettings
from block.errors import RequestError
from block.http.message import Headers
from global_scheduler.attempt import Answer, Failure, Outlet, Stream, Whole
from global_scheduler.client import Client
from global_scheduler.counted_exchange import CountedExchange
from global_scheduler.decision import Decision
from global_scheduler.endpoints import BESIDE_THE_ENGINE
from global_scheduler.fleet import Instance
from global_scheduler.ledger import Commitment, Ledger
from global_scheduler.metrics import SchedulerMetrics
from global_scheduler.receipt import Receipt, Trace
from global_scheduler.relay import Forward, Relay, StreamEnd
from length_estimation.answer_tokens import AnswerTokens
from length_estimation.length_service import LengthService

_DOUBTFUL = frozenset({"reset", "empty", "engine", "timeout"})
"""Failures that call for a health poll at once; a refused connection needs none."""
_FAULTS = frozenset({"reset", "empty", "engine", "status"})
"""Failures that speak against the instance whatever it does for others."""


class Errand(msgspec.Struct, frozen=True):
    """All that belongs to one request on its way."""

    decision: Decision
    forward: Forward
    client: Client
    receipt: Receipt


class Dispatcher:
    """Sends requests; owns the retry rule."""

    def __init__(
        self,
        relay: Relay,
        ledger: Ledger,
        metrics: SchedulerMetrics,
        lengths: LengthService,
        settings: SchedulerSettings,
        dice: random.Random | None = None,
        *,
        counts_tokens: bool = False,
    ) -> None:
        """``dice`` draws the pauses between attempts; ``counts_tokens`` of all answers, not only of traced
        ones and where somebody learns from them.
        """
        self._counts_tokens = counts_tokens or lengths.learns
        self._relay = relay
        self._ledger = ledger
        self._metrics = metrics
        self._lengths = lengths
        self._attempts = settings.attempts
        self._retry_pause_s = settings.retry_pause_s
        self._total_s = settings.total_timeout_s
        self._dice = dice or random.Random()

    async def dispatch(self, errand: Errand) -> None:
        """Serve the client from the first instance that answers.

        One that fails is given up for the next, one that is merely late is not. If none answers, the
        client gets the last one's own error; if that had none to give, RequestError (502 or 504).
        """
        failure = Failure("connect")
        receipt = errand.receipt
        receipt.dispatched_s = time.perf_counter()
        ends_s = self._relay.now_s + self._total_s - (receipt.dispatched_s - receipt.started_s)
        counted = 0
        left = list(errand.decision.instances)
        while (instance := _take_best(left)) is not None:
            receipt.attempts += 1
            receipt.instance = instance.name
            receipt.prediction = errand.decision.predictions.get(instance.name)
            answer = await self._serve(instance, errand, ends_s)
            if answer is None:
                return
            failure = answer
            counted += failure.reason != "connect"  # that one never had the request
            self._note(instance, failure)
            if failure.reason == "timeout" or counted >= self._attempts:
                break  # slow is not dead: elsewhere the same work would start over, on top of this
            if failure.reason != "connect":
                await self._pause(counted)
        if failure.answer is None:
            raise _no_answer(failure, receipt)
        _send_whole(failure.answer, errand)

    async def _pause(self, attempts: int) -> None:
        """So that what many requests lost at once does not fall on the next instance at once."""
        longest_s = self._retry_pause_s * 2.0 ** (attempts - 1)
        if longest_s > 0:
            await asyncio.sleep((1 - 0.5 * self._dice.random()) * longest_s)

    async def _serve(self, instance: Instance, errand: Errand, ends_s: float) -> Failure | None:
        """One attempt; None if the client has its answer."""
        commitment = self._ledger.commit(instance, errand.decision.question.about(instance.name))
        number = instance.traffic.begin(errand.decision.burden, time.monotonic())
        served = False
        receipt = errand.receipt
        try:
            sent_s = time.perf_counter()
            if receipt.trace is None:
                answer = await self._attempt(instance, errand.forward, ends_s)
            else:
                answer = await self._traced_attempt(receipt.trace, instance, errand.forward, ends_s)
            receipt.waited_s += time.perf_counter() - sent_s
            if isinstance(answer, Failure):
                return answer
            _note_first_byte(errand, commitment, streamed=isinstance(answer, Stream))
            if isinstance(answer, Whole):
                self._hand_over(answer, errand)
            else:
                await self._pass_on(instance, answer, errand)
            served = answer.status < 400 and receipt.path not in BESIDE_THE_ENGINE
            return None
        finally:
            instance.traffic.end(number)
            if served:
                commitment.close()
            else:
                commitment.release()

    async def _traced_attempt(
        self, trace: Trace, instance: Instance, forward: Forward, ends_s: float
    ) -> Answer:
        """The same with headers of its own, so that the engine's spans stand below it."""
        headers = trace.attempt(instance, forward.headers)
        answer = await self._attempt(instance, msgspec.structs.replace(forward, headers=headers), ends_s)
        trace.attempted(answer.reason if isinstance(answer, Failure) else None)
        return answer

    async def _attempt(self, instance: Instance, forward: Forward, ends_s: float) -> Answer:
        """Tells the instance's breaker what came of it."""
        relay, breaker = self._relay, instance.breaker
        sent_s = relay.now_s
        breaker.begin()
        try:
            answer = await relay.attempt(instance, forward, ends_s)
        except asyncio.CancelledError:
            breaker.abandon()
            raise
        if not isinstance(answer, Failure):
            breaker.succeed(relay.now_s)
        elif answer.reason in _FAULTS or (
            answer.reason == "timeout" and not instance.signs.heard_since(sent_s)
        ):
            breaker.fail(relay.now_s)
        else:
            breaker.abandon()
        return answer

    def _hand_over(self, answer: Whole, errand: Errand) -> None:
        _send_whole(answer, errand)
        if self._counts_tokens or errand.receipt.trace is not None:
            self._count(errand, AnswerTokens.of(answer.body))

    async def _pass_on(self, instance: Instance, answer: Stream, errand: Errand) -> None:
        if self._counts_tokens or errand.receipt.trace is not None:
            counted = CountedExchange(errand.client.exchange)
            try:
                await self._stream(instance, answer, errand, counted)
            finally:
                self._count(errand, counted.answer)
        else:
            await self._stream(instance, answer, errand, errand.client.exchange)

    async def _stream(self, instance: Instance, stream: Stream, errand: Errand, outlet: Outlet) -> None:
        errand.receipt.status = stream.status
        errand.receipt.streamed = True
        headers = [*stream.headers, *_headers(errand)]
        end = await self._relay.deliver(instance, stream, headers, errand.client, outlet)
        errand.receipt.broken = end is not StreamEnd.COMPLETE
        if end is StreamEnd.FAILED:
            instance.breaker.fail(self._relay.now_s)
            instance.doubted.set()

    def _count(self, errand: Errand, answer: AnswerTokens) -> None:
        errand.receipt.output_tokens = answer.tokens
        if self._lengths.learns and answer.ended and answer.tokens is not None:
            self._lengths.completed(errand.decision.question.candidate.id, answer.tokens, cut=answer.cut)

    def _note(self, instance: Instance, failure: Failure) -> None:
        self._metrics.retries.count((failure.reason,))
        if failure.reason == "connect":
            instance.mark_down()
        elif failure.reason in _DOUBTFUL or (failure.answer and failure.answer.status == 503):
            instance.doubted.set()


def _take_best(left: list[Instance]) -> Instance | None:
    """The first of the ranking as things stand now; a doubtful one only when no other is left.

    A decision takes doubtful ones in only where there is no other, so the order of its ranking holds.
    """
    for place, instance in enumerate(left):
        if instance.ready:
            return left.pop(place)
    for place, instance in enumerate(left):
        if instance.usable:
            return left.pop(place)
    return None


def _note_first_byte(errand: Errand, commitment: Commitment, *, streamed: bool) -> None:
    """A whole answer's first byte comes with its last, and a refusal's says nothing of the engine."""
    receipt = errand.receipt
    receipt.first_byte_s = time.perf_counter()
    if streamed and receipt.attempts == 1 and receipt.dispatched_s is not None:
        # The predictors were asked at the beginning of the decision.
        commitment.served(receipt.first_byte_s - receipt.dispatched_s + errand.decision.took_s)


def _send_whole(answer: Whole, errand: Errand) -> None:
    errand.receipt.status = answer.status
    errand.client.exchange.respond(answer.status, [*answer.headers, *_headers(errand)], answer.body)


def _headers(errand: Errand) -> Headers:
    """What this service adds to an answer's head."""
    decision, receipt = errand.decision, errand.receipt
    receipt.overhead_s = time.perf_counter() - receipt.started_s - receipt.waited_s
    headers = [
        (b"x-request-id", receipt.id.encode()),
        (b"x-block-instance", receipt.instance.encode()),
        (b"x-block-policy", decision.policy.encode()),
        (b"x-block-decision-ms", b"%.3f" % (decision.took_s * 1000)),
        (b"x-block-overhead-ms", b"%.3f" % (receipt.overhead_s * 1000)),
    ]
    if receipt.attempts > 1:
        headers.append((b"x-block-attempts", b"%d" % receipt.attempts))
    if decision.fallback is not None:
        headers.append((b"x-block-fallback", decision.fallback.encode()))
    if receipt.prediction is not None:
        headers.append((b"x-block-predicted-ttft-ms", b"%.3f" % (receipt.prediction.ttft_s * 1000)))
        headers.append((b"x-block-predicted-e2e-ms", b"%.3f" % (receipt.prediction.e2e_s * 1000)))
    return headers


def _no_answer(failure: Failure, receipt: Receipt) -> RequestError:
    tried = f"{receipt.attempts} instance{'s' if receipt.attempts != 1 else ''} tried"
    if failure.reason == "timeout":
        return RequestError(f"no answer in time; {tried}", status=504, code="instance_timeout")
    return RequestError(
        f"no instance answered ({failure.reason}); {tried}", status=502, code="instance_failed"
    )
