"""Sends a request to one instance and brings its bytes back, untouched.

An attempt ends with the first byte that may be passed on, or with a Failure after which another
instance can be tried. Does not choose instances.
"""

from __future__ import annotations

import asyncio

import msgspec

from block.config import SchedulerSettings
from block.errors import ConnectError, RequestError, TransportError
from block.http.client import Client as HttpClient
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


class Relay:
    """The way to the instances and back."""

    def __init__(self, http: HttpClient, settings: SchedulerSettings) -> None:
        self._http = http
        self._first_byte_s = settings.first_byte_timeout_s
        self._response_s = settings.response_timeout_s
        self._idle_s = settings.idle_timeout_s

    async def attempt(self, instance: Instance, forward: Forward) -> Answer:
        """Send, and wait for the first byte (of a stream) or the last (of anything else)."""
        started_s = self._http.loop.time()
        connection = self._http.resting(instance.origin)
        if connection is None:
            try:
                connection = await self._http.connect(instance.origin)
            except ConnectError:
                return Failure("connect")
        limit_s = self._first_byte_s if forward.stream else self._response_s
        attempt = Attempt(connection, started_s + limit_s, self._idle_s)
        target = instance.prefix + forward.path
        head = request_head(b"POST", target, instance.origin.named, forward.headers, len(forward.body))
        self._http.deadlines.watch(attempt)
        instance.waiting.add(attempt)
        answer: Answer | None = None
        try:
            connection.send(attempt, head, forward.body)
            answer = await attempt.answer()
        finally:
            instance.waiting.discard(attempt)
            if not isinstance(answer, Stream):
                self.close(attempt)
        return answer

    async def deliver(self, stream: Stream, headers: Headers, client: Client, outlet: Outlet) -> bool:
        """Pass a stream on to its end; False if it broke and ended with an error event.

        ``outlet`` leads to the client.

        A cancellation that is not the client's leaving is the server's shutdown: it breaks the stream.
        """
        client.source = stream.attempt
        try:
            await stream.attempt.pass_on(stream.status, headers, outlet)
        except (TransportError, TimeoutError) as error:
            cause = "stalled" if isinstance(error, TimeoutError) else "failed"
            _bid_farewell(client, f"the instance {cause} in mid-stream", "instance_failed")
            return False
        except asyncio.CancelledError:
            if client.left:
                raise
            _bid_farewell(client, "the router is shutting down", "shutdown")
            return False
        finally:
            self.close(stream.attempt)
        return True

    def close(self, attempt: Attempt) -> None:
        """It is over, or nobody waits for it any more."""
        self._http.deadlines.forget(attempt)
        attempt.drop()


def _bid_farewell(client: Client, message: str, code: str) -> None:
    """End a stream with an error event."""
    client.exchange.finish(error_event(RequestError(message, status=502, code=code)))
