"""One client's connection: its requests in order, one answer at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from block.errors import RequestError
from block.http.deadlines import NEVER_S
from block.http.exchange import Exchange
from block.http.limits import Limits
from block.http.message import Request
from block.http.request_reader import Arrival, RequestReader

LINGER_S = 2.0
"""How long a client whose request was refused half-way may go on sending: closing at once would reset
the connection, and the client might never read why."""


class Host(Protocol):
    """What a connection needs of its server."""

    loop: asyncio.AbstractEventLoop
    limits: Limits
    draining: bool
    """No further requests are taken."""

    def handle(self, exchange: Exchange) -> None:
        """A request has come, whole: answer it, now or later."""
        ...

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        """What came is not to be served: say so, now. The request may be known in part only."""
        ...

    def enter(self, connection: ServerConnection) -> None:
        """It is open."""
        ...

    def leave(self, connection: ServerConnection) -> None:
        """It is closed."""
        ...


class ServerConnection(asyncio.Protocol):
    """Reads requests, lets each be answered before the next, and watches the clock.

    An end of file from the client counts as its leaving: nobody can tell a client that only stopped
    sending from one that closed, and the work for the latter must stop.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reader = RequestReader(host.limits)
        self._waiting: deque[Arrival] = deque()
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport
        self._pumping = self._paused = self._reading_paused = self._closing = False
        self.deadline_s = NEVER_S

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are none by class
        self._host.enter(self)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._closing:
            return
        reader = self._reader
        if not (self._exchange or self._waiting or self._paused):  # as nearly always
            request = reader.whole(data)
            if request is not None:
                self._open(request, closes=self._host.draining, chunked=True)
                return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        was_in_head = self._reader.in_head
        arrivals = self._reader.feed(data)
        if arrivals:
            self._waiting += arrivals
            self._pump()
        elif self._reader.expects_continue and not self._exchange:
            self._send_continue()
        if self._exchange is None and not (was_in_head and self._reader.in_head):
            self._set_deadline()  # a head's is not moved by its own bytes

    def eof_received(self) -> bool:
        """The other side sends no more; False closes the connection."""
        return False

    def connection_lost(self, _: Exception | None) -> None:
        """The connection is closed."""
        self._closing = True
        self._waiting.clear()
        self._host.leave(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        self._paused = True
        self._set_deadline()
        exchange = self._exchange
        if exchange is not None:
            exchange.paused = True
            if exchange.listener is not None:
                exchange.listener.pause()

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self._set_deadline()
        exchange = self._exchange
        if exchange is None:
            self._pump()
        else:
            exchange.paused = False
            if exchange.listener is not None:
                exchange.listener.resume()

    # The exchange's side

    @property
    def send(self) -> Callable[[bytes], None]:
        """Sends bytes of an answer."""
        return self._transport.write

    def ended(self, *, closes: bool) -> None:
        """The answer is complete: on to the next request, or close."""
        self._exchange = None
        if closes or self._host.draining:
            self._close()
        else:
            self._set_deadline()
            if not self._pumping and (self._waiting or self._reading_paused or self._reader.under_way):
                self._host.loop.call_soon(self._pump)  # once whoever has answered is done with it

    def cut(self) -> None:
        """Close without the last chunk, or short of the length."""
        self._exchange = None
        self._closing = True
        self._transport.close()

    # The server's side

    def expire(self) -> None:
        """The client is too slow."""
        if self._paused or self._closing:
            self._transport.abort()
        elif self._reader.under_way:
            self._waiting.append(self._reader.give_up())
            self._pump()
        else:
            self._transport.close()

    def drain(self) -> None:
        """Take no further request than what has begun; close as soon as nothing is due."""
        reader = self._reader
        if not (self._exchange or self._waiting or reader.under_way):
            self._close()

    def interrupt(self) -> None:
        """End the answer that is due."""
        self._waiting.clear()
        if self._exchange is None:
            self._close()
        elif self._exchange.listener is not None:
            self._exchange.listener.interrupted()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def _pump(self) -> None:
        """Start on the next request, if none is being answered; not by recursion, for there may be many."""
        if self._pumping:
            return
        self._pumping = True
        while self._waiting and self._exchange is None and not self._paused and not self._closing:
            self._begin(self._waiting.popleft())
        self._pumping = False
        if self._exchange is None and self._reader.expects_continue and not self._closing:
            self._send_continue()
        self._throttle()

    def _begin(self, arrival: Arrival) -> None:
        closes = not arrival.keep_alive or self._host.draining
        self._open(arrival.request, arrival.error, closes=closes, chunked=arrival.http_1_1)

    def _open(
        self, request: Request, error: RequestError | None = None, *, closes: bool, chunked: bool
    ) -> None:
        exchange = self._exchange = Exchange(self, request, closes=closes, chunked=chunked)
        self.deadline_s = NEVER_S
        if error is None:
            self._host.handle(exchange)
        else:
            self._host.refuse(exchange, error)

    def _throttle(self) -> None:
        """Read nothing more while many requests wait. (Then its leaving goes unnoticed, too.)"""
        if self._closing or self._transport.is_closing():
            return
        full = len(self._waiting) >= self._host.limits.pipelined
        if full != self._reading_paused:
            self._reading_paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _send_continue(self) -> None:
        self._reader.expects_continue = False
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _close(self) -> None:
        """Close; if the client may still be sending, first let it read what it was told."""
        self._closing = True
        self._waiting.clear()
        if self._reader.interrupted and self._transport.can_write_eof():
            self._transport.write_eof()
            self.deadline_s = self._host.loop.time() + LINGER_S
        else:
            self._transport.close()
            self._set_deadline()

    def _set_deadline(self) -> None:
        limits, now_s = self._host.limits, self._host.loop.time()
        if self._closing or self._paused:
            self.deadline_s = now_s + limits.idle_s
        elif self._exchange is not None:
            self.deadline_s = NEVER_S
        elif self._reader.in_head:
            self.deadline_s = now_s + limits.head_s
        elif self._reader.in_body:
            self.deadline_s = now_s + limits.idle_s
        else:
            self.deadline_s = now_s + limits.keep_alive_s
