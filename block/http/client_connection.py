"""One connection to a server: sends a request, hands the answer's parts to a receiver as they come."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from block.errors import TransportError
from block.http.deadlines import NEVER_S
from block.http.message import BODILESS, Headers, ResponseHead, transfer_coding
from block.http.origin import Origin
from block.http.plain import plain_answer

MAX_HEAD_BYTES = 256 * 1024
_JOINED_BYTES = 64 * 1024
"""Up to this, copying a body costs less than sending it apart from its head."""


class Receiver(Protocol):
    """Takes one answer: whole; or a head, then parts of a body, then its end; or a failure at any point."""

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """All of it has come at once, in order. Nothing follows."""
        ...

    def head(self, head: ResponseHead) -> None:
        """The answer begins."""
        ...

    def body(self, data: bytes, *, last: bool) -> None:
        """More of it: all that came at once, never empty. If ``last``, its end follows at once."""
        ...

    def complete(self) -> None:
        """It has ended in order."""
        ...

    def failed(self, error: TransportError) -> None:
        """It will not end in order. Nothing follows."""
        ...


class Home(Protocol):
    """Where connections rest between two requests."""

    loop: asyncio.AbstractEventLoop

    def rest(self, connection: ClientConnection) -> None:
        """It can take another request."""
        ...

    def leave(self, connection: ClientConnection) -> None:
        """It is closed."""
        ...


class ClientConnection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, home: Home, origin: Origin) -> None:
        self.origin = origin
        self.deadline_s = NEVER_S
        """When it has rested for too long."""
        self.loop = home.loop
        """On which it was opened: asking asyncio for the running one takes a system call each time."""
        self._home = home
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._receiver: Receiver | None = None
        self._usable = True
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self._status = self._fed = 0
        self._headed = self._told = self._ended = False
        self._until_eof = self._reusable = self._paused = False

    @property
    def usable(self) -> bool:
        """Whether it can take a request."""
        return self._usable and self._receiver is None and not self._transport.is_closing()

    def send(self, receiver: Receiver, head: bytes, body: bytes = b"") -> None:
        """Send a request, whole; only if ``usable``."""
        self._receiver = receiver
        self.deadline_s = NEVER_S
        if self._fed:
            self._forget()
        if len(body) > _JOINED_BYTES:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)

    def abort(self) -> None:
        """Close, whatever is under way; the receiver hears no more."""
        self._receiver = None
        self._usable = False
        self._transport.abort()

    def pause(self) -> None:
        """Read nothing for now."""
        if self._receiver is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._paused = True

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def expire(self) -> None:
        """It has rested for too long."""
        self._usable = False
        self._transport.close()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are none by class

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        receiver = self._receiver
        if receiver is None:
            self._fail(TransportError("the server sent what nobody asked for"))
        elif self._fed or (answer := plain_answer(data)) is None:
            self._parse(data)
        else:
            self._rest_or_close(reusable=True)
            receiver.whole(*answer)

    def _parse(self, data: bytes) -> None:
        error: TransportError | None = None
        try:
            self._fed += len(data)
            self._parser.feed_data(data)
            if not self._headed and self._fed > MAX_HEAD_BYTES:
                raise TransportError("the answer's head is too large")
        except httptools.HttpParserUpgrade:
            error = TransportError("the server switched protocols")
        except httptools.HttpParserError as wrong:
            error = TransportError(f"not HTTP: {wrong}")
        except TransportError as wrong:
            error = wrong
        self._hand_on()
        if error is not None and not self._ended:
            self._fail(error)
        elif self._ended and self._receiver is not None:
            self._finish(reusable=error is None)

    def eof_received(self) -> bool:
        """The other side sends no more; False closes the connection."""
        if self._headed and self._until_eof and not self._ended:
            self._ended = True
            self._finish(reusable=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._usable = False
        self._home.leave(self)
        self._fail(TransportError(f"the connection was lost: {exc or 'closed by the server'}"))

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """The first byte of a message."""
        if self._ended:  # nothing of it may be taken for a part of the answer
            raise TransportError("the server sent what nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer."""
        if not self._headed:  # else it is a trailer
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._headed = True
        status = self._parser.get_status_code()
        named = dict(self._headers)
        if not 100 <= status <= 599:
            raise TransportError(f"the answer's status is {status}")
        if status < 200:
            if b"transfer-encoding" in named or b"content-length" in named:
                raise TransportError(f"an answer of status {status} has a body")
            return
        coding = transfer_coding(self._headers) if b"transfer-encoding" in named else None
        if coding is not None and coding != b"chunked":
            raise TransportError(f"the answer has the transfer coding {coding!r}, which is not known here")
        self._until_eof = coding is None and b"content-length" not in named and status not in BODILESS
        self._status = status

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The message has ended."""
        if self._status:
            self._ended = True
            self._reusable = self._parser.should_keep_alive()
        else:  # a status of 1xx: the answer is yet to come
            self._headed = False
            self._headers = []

    def _forget(self) -> None:
        self._headers = []
        self._parts = []
        self._status = self._fed = 0
        self._headed = self._told = self._ended = False
        self._until_eof = self._reusable = self._paused = False

    def _hand_on(self) -> None:
        """Give the receiver what has come; it may abort at any of it."""
        if self._status and not self._told and self._receiver is not None:
            self._told = True
            self._receiver.head(ResponseHead(self._status, self._headers))
        parts = self._parts
        if parts and self._receiver is not None:
            self._parts = []
            self._receiver.body(parts[0] if len(parts) == 1 else b"".join(parts), last=self._ended)

    def _finish(self, *, reusable: bool) -> None:
        receiver = self._receiver
        self._rest_or_close(reusable=reusable and self._reusable)
        if receiver is not None:
            receiver.complete()

    def _rest_or_close(self, *, reusable: bool) -> None:
        self._receiver = None
        if reusable and not self._transport.get_write_buffer_size():
            self.resume()
            self._home.rest(self)
        else:
            self._usable = False
            self._transport.close()

    def _fail(self, error: TransportError) -> None:
        receiver, self._receiver = self._receiver, None
        self._usable = False
        self._transport.abort()
        if receiver is not None:
            receiver.failed(error)
