"""Sends a request to one instance and brings its bytes back, untouched.

An attempt ends with the first byte that may be passed on, or with a Failure after which another
instance can be tried. Does not choose instances.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import aiohttp

from block.config import SchedulerSettings
from block.errors import RequestError
from global_scheduler.client import Client, ClientGoneError
from global_scheduler.event_stream import EventCutter, engine_failure
from global_scheduler.fleet import Instance
from global_scheduler.headers import RawHeaders, forwarded_response
from global_scheduler.replies import error_event

MAX_WHOLE_BODY_BYTES = 256 * 2**20
"""An answer that is not a stream is held in memory until it is complete, up to this."""
FAREWELL_S = 5.0
"""How long a client may take to accept the last event of a broken stream."""

_OWN_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What the HTTP client would add by itself: the client's own go instead, or none."""

FailureReason = Literal["connect", "reset", "timeout", "status", "engine", "empty", "too_large"]


@dataclass(frozen=True, slots=True)
class Forward:
    """What is sent on, whichever the instance."""

    path: str
    """With its query."""
    headers: list[tuple[str, str]]
    body: bytes
    stream: bool
    """Whether the client asked for one; anything else comes only when it is complete."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer known in full."""

    status: int
    headers: RawHeaders
    body: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """An event stream whose first events have come; hand it to ``Relay.deliver``, then close its response."""

    status: int
    headers: RawHeaders
    first: bytes
    cutter: EventCutter
    response: aiohttp.ClientResponse


@dataclass(frozen=True, slots=True)
class Failure:
    """Nothing that could be passed on; ``answer`` is the instance's own word on it, if any."""

    reason: FailureReason
    answer: Whole | None = None


class Relay:
    """The way to the instances and back."""

    def __init__(self, session: aiohttp.ClientSession, settings: SchedulerSettings) -> None:
        self._session = session
        self._first_byte_s = settings.first_byte_timeout_s
        self._response_s = settings.response_timeout_s
        self._idle_s = settings.idle_timeout_s
        self._timeout = aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_s)

    async def attempt(self, instance: Instance, forward: Forward) -> Whole | Stream | Failure:
        """Send, and wait for the first byte (of a stream) or the last (of anything else)."""
        limit_s = self._first_byte_s if forward.stream else self._response_s
        try:
            async with asyncio.timeout(limit_s) as patience:
                with instance.awaited(patience):
                    return await self._take(await self._send(instance, forward), patience)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Failure("connect")
        except TimeoutError:
            return Failure("timeout" if instance.healthy else "reset")
        except (aiohttp.ClientError, OSError):
            return Failure("reset")

    async def deliver(self, stream: Stream, client: Client) -> bool:
        """Pass a stream on to its end; False if it broke and ended with an error event.

        A cancellation that is not the client's leaving is the server's shutdown: it breaks the stream.
        """
        try:
            await self._pass_on(stream, client)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            cause = "stalled" if isinstance(error, TimeoutError) else "failed"
            await _bid_farewell(client, f"the instance {cause} in mid-stream", "instance_failed")
            return False
        except asyncio.CancelledError:
            if client.gone:
                raise
            await _bid_farewell(client, "the router is shutting down", "shutdown")
            return False
        await client.finish(stream.cutter.rest())
        return True

    async def _send(self, instance: Instance, forward: Forward) -> aiohttp.ClientResponse:
        return await self._session.post(
            instance.at(forward.path),
            data=forward.body,
            headers=forward.headers,
            skip_auto_headers=_OWN_HEADERS,
            allow_redirects=False,
            timeout=self._timeout,
        )

    async def _pass_on(self, stream: Stream, client: Client) -> None:
        loop = asyncio.get_running_loop()
        content = stream.response.content
        writing = True
        try:
            async with asyncio.timeout(self._idle_s) as patience:
                await client.write(stream.first)
                writing = False
                while chunk := await content.readany():
                    events = stream.cutter.feed(chunk)
                    if events:
                        writing = True
                        await client.write(events)
                        writing = False
                    patience.reschedule(loop.time() + self._idle_s)
        except TimeoutError as error:
            if writing:
                raise ClientGoneError from error  # it is the client that stopped, by not reading
            raise

    async def _take(
        self, response: aiohttp.ClientResponse, patience: asyncio.Timeout
    ) -> Whole | Stream | Failure:
        taken: Whole | Stream | Failure | None = None
        try:
            if response.status == 200 and response.content_type == "text/event-stream":
                taken = await self._open_stream(response)
            else:
                taken = await self._collect(response, patience)
        finally:
            if not isinstance(taken, Stream):
                response.close()
        return taken

    async def _open_stream(self, response: aiohttp.ClientResponse) -> Stream | Failure:
        cutter = EventCutter()
        first = b""
        while not first and (chunk := await response.content.readany()):
            first = cutter.feed(chunk)
        first = first or cutter.rest()
        if not first:
            return Failure("empty")
        failure = engine_failure(first)
        if failure is not None:
            status, body = failure
            return Failure("engine", Whole(status, [(b"content-type", b"application/json")], body))
        return Stream(response.status, forwarded_response(response.raw_headers), first, cutter, response)

    async def _collect(self, response: aiohttp.ClientResponse, patience: asyncio.Timeout) -> Whole | Failure:
        loop = asyncio.get_running_loop()
        chunks: list[bytes] = []
        size = 0
        while chunk := await response.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_WHOLE_BODY_BYTES:
                return Failure("too_large")
            patience.reschedule(loop.time() + self._idle_s)
        answer = Whole(response.status, forwarded_response(response.raw_headers), b"".join(chunks))
        return Failure("status", answer) if answer.status >= 500 else answer


async def _bid_farewell(client: Client, message: str, code: str) -> None:
    """End a stream with an error event. Raises ClientGoneError if the client does not take it."""
    try:
        async with asyncio.timeout(FAREWELL_S):
            await client.finish(error_event(RequestError(message, status=502, code=code)))
    except TimeoutError as timeout:
        raise ClientGoneError from timeout
