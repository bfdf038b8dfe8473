"""Sends a request to one instance and brings its bytes back, untouched.

An attempt ends with the first byte that may be passed on, or with a Failure after which another
instance can be tried. Does not choose instances.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto

import msgspec

from block.config import SchedulerSettings
from block.errors import ConnectError, RequestError, TransportError
from block.http.client import Client as HttpClient
from block.http.deadlines import NEVER_S
from block.http.message import Headers, request_head
from global_scheduler.attempt import Answer, Attempt, Failure, Outlet, Stream
from global_scheduler.client import Client
from global_scheduler.fleet import Instance
from global_scheduler.replies import error_event


class Forward(msgspec.Struct, frozen=True):
    """What is sent on, whichever the instance."""

    path: bytes
    """With its query."""
    headers: Headers
    body: bytes
    stream: bool
    """Whether the client asked for one; anything else comes only when it is complete."""


class StreamEnd(Enum):
    """How a stream has ended."""

    COMPLETE = auto()
    FAILED = auto()
    """By the instance's fault."""
    ENDED = auto()
    """By this service, before its time."""


class Relay:
    """The way to the instances and back."""

    def __init__(self, http: HttpClient, settings: SchedulerSettings) -> None:
        self._http = http
        self._first_byte_s = settings.first_byte_timeout_s
        self._response_s = settings.response_timeout_s
        self._idle_s = settings.idle_timeout_s

    @property
    def now_s(self) -> float:
        """By the clock of deadlines, breakers and life signs."""
        return self._http.loop.time()

    async def attempt(self, instance: Instance, forward: Forward, ends_s: float = NEVER_S) -> Answer:
        """Send, and wait for the first byte (of a stream) or the last (of anything else).

        By ``ends_s`` the whole answer must be there.
        """
        started_s = self.now_s
        connection = self._http.resting(instance.origin)
        if connection is None:
            try:
                connection = await self._http.connect(instance.origin)
            except ConnectError:
                return Failure("connect")
        limit_s = self._first_byte_s if forward.stream else self._response_s
        attempt = Attempt(
            connection, started_s + limit_s, self._idle_s, streams=forward.stream, ends_s=ends_s
        )
        target = instance.prefix + forward.path
        head = request_head(b"POST", target, instance.origin.named, forward.headers, len(forward.body))
        self._http.deadlines.watch(attempt)
        instance.signs.begin(attempt)
        answer: Answer | None = None
        try:
            connection.send(attempt, head, forward.body)
            answer = await attempt.answer()
        finally:
            if not isinstance(answer, Stream):
                self.close(instance, attempt)
        return answer

    async def deliver(
        self, instance: Instance, stream: Stream, headers: Headers, client: Client, outlet: Outlet
    ) -> StreamEnd:
        """Pass a stream of ``instance`` on to its end; unless that is complete, it is an error event.

        ``outlet`` leads to the client.

        A cancellation that is not the client's leaving is the server's shutdown: it breaks the stream.
        """
        client.source = stream.attempt
        try:
            await stream.attempt.pass_on(stream.status, headers, outlet)
        except (TransportError, TimeoutError) as error:
            cause = "stalled" if isinstance(error, TimeoutError) else "failed"
            _bid_farewell(client, f"the instance {cause} in mid-stream", "instance_failed")
            return StreamEnd.FAILED
        except RequestError as error:
            client.exchange.finish(error_event(error))
            return StreamEnd.ENDED
        except asyncio.CancelledError:
            if client.left:
                raise
            _bid_farewell(client, "the router is shutting down", "shutdown")
            return StreamEnd.ENDED
        finally:
            self.close(instance, stream.attempt)
        return StreamEnd.COMPLETE

    def close(self, instance: Instance, attempt: Attempt) -> None:
        """It is over, or nobody waits for it any more."""
        instance.signs.end(attempt)
        self._http.deadlines.forget(attempt)
        attempt.drop()


def _bid_farewell(client: Client, message: str, code: str) -> None:
    """End a stream with an error event."""
    client.exchange.finish(error_event(RequestError(message, status=502, code=code)))
