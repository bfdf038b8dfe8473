"""The client's side of one exchange: its body coming in, the answer going out, and its going away."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Message, Receive, Send

from block.errors import RequestError
from global_scheduler.headers import RawHeaders
from global_scheduler.replies import send_error


class ClientGoneError(Exception):
    """The client left, or stopped reading, before its answer was complete."""


class Client:
    """One request's client.

    Inside ``async with client``, its leaving raises ClientGoneError wherever the block waits; that
    works by cancelling the task which entered the block.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._gone = False
        self._worker: asyncio.Task[object] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.answered = False
        """Whether the head of an answer has been sent."""

    async def read_body(self, declared_bytes: int | None, max_bytes: int, idle_s: float) -> bytes:
        """The whole request body.

        Raises RequestError (413 when too large, 408 when the client stops sending) or ClientGoneError.
        """
        if declared_bytes is not None and declared_bytes > max_bytes:
            raise _too_large(max_bytes)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._next_message(idle_s)
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > max_bytes:
                raise _too_large(max_bytes)
            if not message.get("more_body", False):
                return b"".join(chunks)

    @property
    def gone(self) -> bool:
        """Whether it left while it was watched."""
        return self._gone

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send the head of the answer."""
        self.answered = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last part; a server reports a finished exchange as a disconnect, so stop watching."""
        self._stop_watching()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def refuse(self, error: RequestError, headers: RawHeaders) -> None:
        """Answer with an error in OpenAI's shape."""
        self._stop_watching()
        self.answered = True
        await send_error(self._send, error, headers)

    async def __aenter__(self) -> Self:
        self._worker = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_watching()
        if self._gone and isinstance(error, asyncio.CancelledError) and self._worker is not None:
            if self._worker.uncancel() > 0:
                return  # somebody else cancelled the task as well, and that goes first
            raise ClientGoneError from None

    async def _next_message(self, idle_s: float) -> Message:
        try:
            async with asyncio.timeout(idle_s):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestError(
                "the request body stopped arriving", status=408, code="request_timeout"
            ) from error
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        return message

    async def _watch(self) -> None:
        message = await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        if self._watcher is not None and self._worker is not None:
            self._gone = True
            self._worker.cancel()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(f"the body is larger than {max_bytes} bytes", status=413, code="request_too_large")
