"""One request's engagement with one instance: what stands in the books for it there, and the way to it.

Begins and ends once, whatever comes of it. Does not choose the instance, nor decide what a failure leads to.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from block.errors import ConnectError
from block.http.client_connection import ClientConnection
from global_scheduler.answer import Answer, Failure
from global_scheduler.attempt import Attempt
from global_scheduler.dispatch import Dispatcher
from global_scheduler.fleet import Instance
from global_scheduler.ledger import Commitment
from global_scheduler.question import Question
from global_scheduler.relay import Forward
from global_scheduler.traffic import Burden


class Engager(Protocol):
    """Whoever engages instances."""

    def __enter__(self) -> None:
        """What is done under it may fail: that ends its request, and goes no further."""
        ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool: ...

    def answered(self, engagement: Engagement, answer: Answer) -> None:
        """What came of it; a stream waits to be passed on."""
        ...

    def ended(self, engagement: Engagement, error: Exception | None) -> None:
        """The stream is at its end; with an error as ``Sender.ended`` gets it."""
        ...


class Engagement:
    """Stands in the instance's books until it is left. The sender of its attempt."""

    __slots__ = (
        "_attempt",
        "_began_s",
        "_commitment",
        "_dispatcher",
        "_ends_s",
        "_engager",
        "_forward",
        "_number",
        "_opening",
        "instance",
        "sent_s",
    )

    sent_s: float
    """By ``time.perf_counter``."""

    def __init__(self, dispatcher: Dispatcher, instance: Instance, burden: Burden) -> None:
        self.instance = instance
        self._dispatcher = dispatcher
        self._attempt: Attempt | None = None
        self._commitment: Commitment | None = None
        self._opening: asyncio.Task[None] | None = None
        self._number = instance.traffic.begin(burden, time.monotonic())
        instance.breaker.begin()

    def commit(self, question: Question) -> None:
        """Tell the instance's predictor that the request is on its way."""
        candidate = question.about(self.instance.name)
        self._commitment = self._dispatcher.ledger.commit(self.instance, candidate)

    def begin(self, engager: Engager, forward: Forward, ends_s: float) -> None:
        """Send the request there; the engager is told of the answer, or that there is no way."""
        self._engager = engager
        self._forward = forward
        self._ends_s = ends_s
        relay = self._dispatcher.relay
        self.sent_s = time.perf_counter()
        self._began_s = relay.now_s
        connection = relay.resting(self.instance)
        if connection is None:
            self._opening = relay.open(self.instance, self._opened)
        else:
            self._send(connection)

    def served(self, ttft_s: float) -> None:
        """The first byte of its answer came ``ttft_s`` after the predictors were asked."""
        if self._commitment is not None:
            self._commitment.served(ttft_s)

    def leave(self, *, seen: bool) -> None:
        """Be done with it, once. ``seen``: its engine had the request."""
        if self._attempt is not None:
            self._dispatcher.relay.close(self.instance, self._attempt)
            self._attempt = None
        elif self._opening is not None:
            self._opening.cancel()
        self.instance.traffic.end(self._number)
        if self._commitment is None:
            return
        if seen:
            self._commitment.close()
        else:
            self._commitment.release()

    def abandon(self) -> None:
        """What will come of it nobody knows."""
        self.instance.breaker.abandon()

    # Its attempt's side

    def answered(self, answer: Answer) -> None:
        """It has been answered, or has failed."""
        with self._engager:
            self._dispatcher.judge(self.instance, answer, self._began_s)
            self._engager.answered(self, answer)

    def ended(self, error: Exception | None) -> None:
        """The stream is at its end."""
        with self._engager:
            self._engager.ended(self, error)

    def _opened(self, connection: ClientConnection | ConnectError) -> None:
        self._opening = None
        if isinstance(connection, ConnectError):
            self.answered(Failure("connect"))
        else:
            with self._engager:
                self._send(connection)

    def _send(self, connection: ClientConnection) -> None:
        instance, forward = self.instance, self._forward
        attempt = self._attempt = self._dispatcher.relay.begin(
            self, instance, connection, forward, self._began_s, self._ends_s
        )
        connection.send(attempt, forward.head(instance), forward.body)
