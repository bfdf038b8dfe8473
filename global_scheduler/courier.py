"""Posts messages to predictors. Nothing is awaited: an answer comes to a callback, or its absence does."""

from __future__ import annotations

import logging
from collections.abc import Callable

from block.errors import ConnectError, TransportError
from block.http.client import Client
from block.http.client_connection import ClientConnection
from block.http.deadlines import NEVER_S
from block.http.message import Headers, Response, ResponseHead, header_lines, request_head
from block.http.origin import Origin

MAX_ANSWER_BYTES = 64 * 1024
_JSON: Headers = [(b"content-type", b"application/json")]

Callback = Callable[[Response | None], None]
"""Gets the answer; None if there was none in time, or too much of it."""

logger = logging.getLogger(__name__)


class Courier:
    """Over kept-alive connections."""

    def __init__(self, http: Client, headers: Headers | None = None) -> None:
        """``headers`` go with every message."""
        self._http = http
        self._lines = header_lines([*_JSON, *(headers or ())])
        self._letters: set[_Letter] = set()

    def post(
        self, place: tuple[Origin, bytes], path: bytes, body: bytes, patience_s: float, done: Callback
    ) -> None:
        """Send; ``done`` is called once, later, unless the courier is closed before."""
        origin, prefix = place
        head = request_head(b"POST", prefix + path, origin.named, self._lines, len(body))
        letter = _Letter(self, head + body, self._http.loop.time() + patience_s, done)
        self._letters.add(letter)
        self._http.deadlines.watch(letter)
        connection = self._http.resting(origin)
        if connection is not None:
            letter.send(connection)
        else:
            self._http.open(origin, letter.opened)

    def rest(self, connection: ClientConnection) -> None:
        """Of no use to its letter any more; the next one will need it."""
        self._http.rest(connection)

    def forget(self, letter: _Letter) -> None:
        """It is over."""
        self._letters.discard(letter)
        self._http.deadlines.forget(letter)

    def close(self) -> None:
        """Drop what is on its way; its callbacks are not called."""
        for letter in tuple(self._letters):
            letter.drop()


class _Letter:
    """One message and its answer."""

    __slots__ = ("_body", "_connection", "_courier", "_done", "_message", "_status", "deadline_s")

    def __init__(self, courier: Courier, message: bytes, deadline_s: float, done: Callback) -> None:
        self.deadline_s = deadline_s
        self._courier = courier
        self._message = message
        self._done: Callback | None = done
        self._connection: ClientConnection | None = None
        self._status = 0
        self._body = b""

    def send(self, connection: ClientConnection) -> None:
        self._connection = connection
        connection.send(self, self._message)

    def opened(self, connection: ClientConnection | ConnectError) -> None:
        """Its connection is there, or will not be."""
        if isinstance(connection, ConnectError):
            self.failed(connection)
        elif self.deadline_s < NEVER_S:
            self.send(connection)
        else:  # given up meanwhile
            self._courier.rest(connection)

    def drop(self) -> None:
        """End without a word."""
        self._done = None
        self._abort()

    # The connection's side

    def whole(self, head: ResponseHead, body: bytes) -> None:
        self._connection = None
        self._settle(Response(head.status, [], body) if len(body) <= MAX_ANSWER_BYTES else None)

    def head(self, head: ResponseHead) -> None:
        self._status = head.status

    def body(self, data: bytes, **_: bool) -> None:
        self._body += data
        if len(self._body) > MAX_ANSWER_BYTES:
            self.expire()

    def complete(self) -> None:
        self._connection = None
        self._settle(Response(self._status, [], self._body))

    def failed(self, error: TransportError) -> None:
        logger.debug("%s", error)
        self._connection = None
        self._settle(None)

    # The clock's side

    def expire(self) -> None:
        self._abort()
        self._settle(None)

    def _abort(self) -> None:
        self.deadline_s = NEVER_S
        self._courier.forget(self)
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _settle(self, answer: Response | None) -> None:
        self.deadline_s = NEVER_S
        self._courier.forget(self)
        done, self._done = self._done, None
        if done is not None:
            done(answer)
