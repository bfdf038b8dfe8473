"""The way of one request, from its decision to the end of its answer.

Driven by callbacks of its client, its attempts and the clock: a request has no task, but while others are
asked about it. An instance that fails is given up for the next, one that is merely late is not. If none
answers, the client gets the last one's own error; if that had none to give, 502 or 504.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from block.errors import RequestError
from block.http.exchange import Exchange
from global_scheduler.answer import Answer, Failure, Stream, Whole
from global_scheduler.counted_exchange import CountedExchange
from global_scheduler.decision import Decision
from global_scheduler.dispatch import Dispatcher, own_lines, reaches_engine, take_best
from global_scheduler.engagement import Engagement
from global_scheduler.receipt import Receipt
from global_scheduler.refusals import no_answer, refuse, shutting_down
from global_scheduler.relay import Forward
from global_scheduler.replies import error_event
from length_estimation.answer_tokens import AnswerTokens

_UNTRIED = Failure("connect")

logger = logging.getLogger(__name__)


class Waiting(Protocol):
    """What is to come later, and need not come any more: a task or a timer."""

    def cancel(self) -> object:
        """It need not."""
        ...


class Errand:
    """One request's; the listener of its exchange; engages instances, one after the other."""

    __slots__ = (
        "_counted",
        "_decision",
        "_dispatcher",
        "_done",
        "_ends_s",
        "_engagement",
        "_failure",
        "_forward",
        "_left",
        "_over",
        "_reached",
        "_stream",
        "_waiting",
        "exchange",
        "receipt",
    )

    def __init__(
        self, dispatcher: Dispatcher, exchange: Exchange, receipt: Receipt, done: Callable[[Errand], None]
    ) -> None:
        """``done`` is called once, when the client has all it will get."""
        self.exchange = exchange
        self.receipt = receipt
        self._dispatcher = dispatcher
        self._done = done
        self._over = False
        self._waiting: Waiting | None = None
        self._engagement: Engagement | None = None
        """With the instance that is being tried, or has been found."""
        self._stream: Stream | None = None
        self._counted: CountedExchange | None = None
        self._failure = _UNTRIED
        self._reached = 0
        """Instances that had the request."""

    def wait_for(self, waiting: Waiting) -> None:
        """Somebody else goes on with it; it is cancelled with the errand."""
        self._waiting = waiting

    def carry_out(self, decision: Decision, forward: Forward) -> None:
        """It has been decided where it goes."""
        self._waiting = None
        self._decision = decision
        self._forward = forward
        receipt = self.receipt
        receipt.decision = decision
        receipt.dispatched_s = time.perf_counter()
        dispatcher = self._dispatcher
        self._ends_s = (
            dispatcher.relay.now_s + dispatcher.total_s - (receipt.dispatched_s - receipt.started_s)
        )
        self._left = list(decision.instances)
        self._try_next()

    def __enter__(self) -> None:
        """What is done under it may fail: that ends this errand, and goes no further."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, RequestError):
            logger.error("request %s failed inside the scheduler", self.receipt.id, exc_info=error)
        if not self._over:
            self._waiting = None  # for it is who was waited for that has failed
            self._fail(error)
        return True

    def _fail(self, error: Exception) -> None:
        self.receipt.broken = not isinstance(error, RequestError)
        if self.exchange.started:
            self.exchange.cut()
        elif isinstance(error, RequestError):
            self._refuse(error)
        else:
            self._refuse(RequestError("internal error", status=500))
        self._end()

    # The client's side

    def gone(self) -> None:
        """The client has left, or does not read: stop working for it."""
        self.receipt.gone = True
        self._end()

    def interrupted(self) -> None:
        """The server ends."""
        if self._stream is not None:
            self.receipt.broken = True
            self._bid_farewell("the router is shutting down", "shutdown")
        else:
            self._refuse(shutting_down())
        self._end()

    def pause(self) -> None:
        """The client reads too slowly: hold the instance back."""
        if self._stream is not None:
            self._stream.source.pause()

    def resume(self) -> None:
        """It has caught up."""
        if self._stream is not None:
            self._stream.source.resume()

    # The instances' side

    def answered(self, engagement: Engagement, answer: Answer) -> None:
        """One of them has given what may be passed on, or has failed."""
        receipt, dispatcher = self.receipt, self._dispatcher
        now_s = time.perf_counter()
        receipt.waited_s += now_s - engagement.sent_s
        if receipt.trace is not None:
            receipt.trace.attempted(answer.reason if isinstance(answer, Failure) else None)
        if isinstance(answer, Failure):
            self._leave(seen=False)
            dispatcher.note(engagement.instance, answer)
            self._try_other(answer)
            return
        receipt.first_byte_s = now_s
        if isinstance(answer, Stream):
            self._pass_on(engagement, answer)
            return
        self._leave(seen=reaches_engine(answer.status, receipt.path))
        self._hand_over(answer)
        if dispatcher.counts(receipt):
            dispatcher.count(receipt, self._decision, AnswerTokens.of(answer.body))
        self._end()

    def ended(self, engagement: Engagement, error: Exception | None) -> None:
        """The stream is at its end."""
        self.receipt.broken = error is not None
        if isinstance(error, RequestError):
            self.exchange.finish(error_event(error))
        elif error is not None:
            cause = "stalled" if isinstance(error, TimeoutError) else "failed"
            self._bid_farewell(f"the instance {cause} in mid-stream", "instance_failed")
            self._dispatcher.note_broken(engagement.instance)
        self._leave(seen=reaches_engine(self.receipt.status, self.receipt.path))
        self._end()

    def _retry(self) -> None:
        self._waiting = None
        with self:
            self._try_next()

    def _try_next(self) -> None:
        instance = take_best(self._left)
        if instance is None:
            self._give_up()
            return
        receipt, decision, dispatcher = self.receipt, self._decision, self._dispatcher
        receipt.attempts += 1
        receipt.instance = instance.name
        receipt.prediction = decision.predictions.get(instance.name)
        if receipt.trace is not None:  # the engine's spans stand below it
            lines = receipt.trace.attempt(instance, self._forward.lines)
            self._forward = msgspec.structs.replace(self._forward, lines=lines)
        engagement = self._engagement = Engagement(dispatcher, instance, decision.burden)
        if decision.question is not None:
            engagement.commit(decision.question)
        engagement.begin(self, self._forward, self._ends_s)

    def _try_other(self, failure: Failure) -> None:
        dispatcher = self._dispatcher
        self._failure = failure
        if failure.reason == "connect":  # that one never had the request
            self._try_next()
            return
        self._reached += 1
        if dispatcher.is_final(failure, self._reached):
            self._give_up()
        elif (pause_s := dispatcher.pause_s(self._reached)) > 0:
            self._waiting = dispatcher.relay.loop.call_later(pause_s, self._retry)
        else:
            self._try_next()

    def _give_up(self) -> None:
        failure = self._failure
        if failure.answer is None:
            raise no_answer(failure.reason, self.receipt.attempts)
        self._hand_over(failure.answer)
        self._end()

    def _hand_over(self, answer: Whole) -> None:
        self.receipt.status = answer.status
        self.exchange.answer(answer.status, answer.lines + self._own_lines(), answer.body)

    def _pass_on(self, engagement: Engagement, stream: Stream) -> None:
        receipt = self.receipt
        receipt.status = stream.status
        receipt.streamed = True
        if receipt.attempts == 1 and receipt.ttft_s is not None:
            # A whole answer's first byte comes with its last. Predictors were asked as the decision began.
            engagement.served(receipt.ttft_s + self._decision.took_s)
        self._stream = stream
        if self._dispatcher.counts(receipt):
            self._counted = CountedExchange(self.exchange)
        stream.source.pass_on(stream.lines + self._own_lines(), self._counted or self.exchange)

    # The end

    def _refuse(self, error: RequestError) -> None:
        refuse(self.exchange, self.receipt, error)

    def _bid_farewell(self, message: str, code: str) -> None:
        """End a stream with an error event."""
        self.exchange.finish(error_event(RequestError(message, status=502, code=code)))

    def _leave(self, *, seen: bool) -> None:
        """Be done with the instance, if there is one. ``seen``: its engine had the request."""
        engagement, self._engagement = self._engagement, None
        if engagement is not None:
            engagement.leave(seen=seen)

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self._engagement is not None:
            if self._stream is None:
                self._engagement.abandon()
            self._leave(seen=False)
        if self._counted is not None:
            self._dispatcher.count(self.receipt, self._decision, self._counted.answer)
        self._stream = None  # it knows this errand; nothing is left for a search for cycles
        self._done(self)

    def _own_lines(self) -> bytes:
        receipt = self.receipt
        receipt.overhead_s = time.perf_counter() - receipt.started_s - receipt.waited_s
        return own_lines(self._decision, receipt)
