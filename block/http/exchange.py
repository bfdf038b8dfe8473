"""One request and its answer, as a service sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from block.http.message import BODILESS, Headers, Request, response_lines


class Wire(Protocol):
    """What an exchange needs of its connection."""

    @property
    def send(self) -> Callable[[bytes], None]:
        """Sends bytes, or keeps them until the client takes them."""
        ...

    def ended(self, *, closes: bool) -> None:
        """The answer is complete."""
        ...

    def cut(self) -> None:
        """The answer ends here, unfinished."""
        ...


class Listener(Protocol):
    """Whoever answers over a time, and wants to know what happens meanwhile."""

    def gone(self) -> None:
        """The client has left; nothing that is written from now on goes anywhere."""
        ...

    def interrupted(self) -> None:
        """The server ends: the answer must end now."""
        ...

    def pause(self) -> None:
        """The client reads too slowly: write nothing, if you can."""
        ...

    def resume(self) -> None:
        """It has caught up."""
        ...


class Exchange:
    """Answer with ``respond`` or ``answer``, or with ``start``, ``write`` and ``finish``. After the client
    has left, and after the end, all of them do nothing.
    """

    __slots__ = ("_chunked", "_send", "_wire", "closes", "listener", "open", "paused", "request", "started")

    def __init__(self, wire: Wire, request: Request, *, closes: bool, chunked: bool) -> None:
        """``closes``: no further request on this connection. ``chunked``: the client knows chunks."""
        self._wire = wire
        self._send = wire.send
        self._chunked = chunked
        self.request = request
        self.closes = closes
        self.listener: Listener | None = None
        self.open = True
        """Whether an answer is still due, and somebody there to get it."""
        self.started = False
        """Whether the head of an answer has been sent."""
        self.paused = False
        """Whether the client reads too slowly at the moment."""

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """A whole answer; its length is set here and must not be among ``headers``."""
        self.answer(status, response_lines(status, headers), body)

    def answer(self, status: int, lines: bytes, body: bytes = b"") -> None:
        """The same, with status line and headers as ``response_lines`` makes them."""
        if not self.open:
            return
        if self.closes:
            lines += b"connection: close\r\n"
        if status in BODILESS:
            data = lines + b"\r\n"
        elif self.request.head.method == b"HEAD":
            data = b"%bcontent-length: %d\r\n\r\n" % (lines, len(body))
        else:
            data = b"%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body)
        self.started = True
        self._send(data)
        self._end()

    def start(self, lines: bytes, first: bytes = b"") -> None:
        """The head of an answer of unknown length, as ``response_lines`` makes it, and its first bytes."""
        if not self.open:
            return
        self.closes = self.closes or not self._chunked
        parts = [lines]
        if self.closes:
            parts.append(b"connection: close\r\n")
        if self._chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        parts.append(b"\r\n")
        if first:
            parts.append(self._framed(first))
        self.started = True
        self._send(b"".join(parts))

    def write(self, data: bytes) -> None:
        """More of it; not empty."""
        if self.open:
            self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def finish(self, data: bytes = b"") -> None:
        """The last of it."""
        if not self.open:
            return
        if self._chunked:
            self._send((self._framed(data) if data else b"") + b"0\r\n\r\n")
        elif data:
            self._send(data)
        self._end()

    def cut(self) -> None:
        """End an answer that cannot be completed: the client must not take it for a whole one."""
        if self.open:
            self.open = False
            self.listener = None
            self._wire.cut()

    def abort(self) -> None:
        """The client has left. Called by the connection."""
        self.open = False
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.gone()

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def _end(self) -> None:
        self.open = False
        self.listener = None
        self._wire.ended(closes=self.closes)
