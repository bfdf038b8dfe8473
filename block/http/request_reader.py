"""Bytes to requests: the strict half of the server. Knows neither sockets nor what is served.

llhttp refuses ambiguous framing (length beside chunks, two lengths, folded headers, bare line feeds);
what is left to refuse here is versions, hosts, codings and sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import httptools
import msgspec

from block.errors import RequestError
from block.http.limits import Limits
from block.http.message import Headers, Request, RequestHead, transfer_coding
from block.http.plain import plain_request

_WORST_FRAMING = 6
"""Bytes on the wire per byte of body, if each comes as a chunk of its own."""


class Arrival(msgspec.Struct, frozen=True):
    """A request that has come, or what is wrong with it."""

    request: Request
    keep_alive: bool
    """Whether another request may follow on the connection."""
    http_1_1: bool = True
    """Else 1.0, which knows no chunks."""
    error: RequestError | None = None
    """If set, ``request`` holds only what was understood, and nothing more is read."""


class RequestReader:
    """Reads the requests of one connection."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._arrivals: list[Arrival] = []
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._method = self._target = b""
        self._body_bytes = self._fed_bytes = 0
        self._has_body = self._last_closes = False
        self._modern = True
        self._error: RequestError | None = None
        self.in_head = self.in_body = False
        self.expects_continue = False
        """The client waits for leave to send its body."""
        self.interrupted = False
        """A message was refused before its end: the client may still be sending it."""
        self._began = self._deaf = False
        self._feeding_bytes = 0

    def feed(self, data: bytes) -> Sequence[Arrival]:
        """What is complete now, in order."""
        request = self.whole(data)
        return self.parse(data) if request is None else (Arrival(request, True),)

    def whole(self, data: bytes) -> Request | None:
        """The one request that ``data`` is, after which another may follow; else it is to be parsed."""
        if self._deaf or self.in_head or self.in_body or self._last_closes:
            return None
        return plain_request(data, self._limits.max_head_bytes, self._limits.max_body_bytes)

    def parse(self, data: bytes) -> Sequence[Arrival]:
        """What is complete now, by the parser."""
        if self._deaf:
            return ()
        self._began = False
        self._feeding_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # what follows is another protocol, which is not spoken here
        except httptools.HttpParserError as error:
            self._refuse(self._error or RequestError(f"not HTTP: {error}"))
        else:
            if not self._began and (self.in_head or self.in_body):
                self._count(len(data))
        if not self._arrivals:
            return ()
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    @property
    def under_way(self) -> bool:
        """Whether a message has begun and not ended."""
        return self.in_head or self.in_body

    def give_up(self) -> Arrival:
        """The rest of a request has not come in time."""
        what = "body" if self.in_body else "head"
        self._refuse(
            RequestError(f"the request's {what} stopped arriving", status=408, code="request_timeout")
        )
        return self._arrivals.pop()

    # Callbacks of the parser. An exception stops it.

    def on_message_begin(self) -> None:
        """The first byte of a message."""
        self._forget()
        self.in_head = self._began = True

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer."""
        if self.in_head:  # else it is a trailer
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self.in_head = False
        self.in_body = True
        self._method = self._parser.get_method()
        self._check_head()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self.expects_continue = False
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.max_body_bytes:
            self._stop(_too_large(self._limits.max_body_bytes))

    def on_message_complete(self) -> None:
        """The message has ended."""
        if self._parser.should_upgrade() and self._has_body:
            self._stop(RequestError("a request to upgrade cannot have a body here", status=501))
        self.in_body = self.expects_continue = False
        keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        self._arrivals.append(Arrival(self._request(), keep_alive, self._modern))
        self._last_closes = not keep_alive

    def _forget(self) -> None:
        self._method = self._target = b""
        self._headers = []
        self._body = []
        self._body_bytes = self._fed_bytes = 0
        self._has_body = self._last_closes = False
        self._modern = True

    def _request(self) -> Request:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return Request(RequestHead(self._method, self._target, self._headers), body)

    def _refuse(self, error: RequestError) -> None:
        self._deaf = self.interrupted = True
        self.in_head = self.in_body = self.expects_continue = False
        if not self._last_closes:  # else it was said that nothing more would be read
            self._arrivals.append(Arrival(self._request(), False, self._modern, error))

    def _stop(self, error: RequestError) -> None:
        self._error = error
        raise error

    def _count(self, size: int) -> None:
        """Bound what the parser may keep of a head or a trailer that has not ended.

        The part that a message shares with the one before it is left out.
        """
        self._fed_bytes += size
        if self.in_head and self._fed_bytes > self._limits.max_head_bytes * 2:
            self._refuse(_head_too_large(self._limits.max_head_bytes))
        elif self._fed_bytes > self._limits.max_head_bytes * 2 + self._limits.max_body_bytes * _WORST_FRAMING:
            self._refuse(_too_large(self._limits.max_body_bytes))

    def _check_head_size(self) -> None:
        if self._fed_bytes + self._feeding_bytes <= self._limits.max_head_bytes:
            return  # with the body's beginning, and with what stood before it
        size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        if size > self._limits.max_head_bytes:
            self._stop(_head_too_large(self._limits.max_head_bytes))

    def _check_head(self) -> None:
        self._check_head_size()
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._stop(RequestError(f"HTTP/{version} is not spoken here", status=505))
        named = dict(self._headers)
        self._modern = version == "1.1"
        hosts = 1 if b"host" in named else 0
        if len(named) < len(self._headers):
            hosts = sum(name == b"host" for name, _ in self._headers)
        if hosts > 1 or (self._modern and hosts == 0):
            self._stop(RequestError("a request must name its host, once"))
        coding = transfer_coding(self._headers) if b"transfer-encoding" in named else None
        if coding is not None and not self._modern:
            self._stop(RequestError("HTTP/1.0 has no transfer codings"))
        if coding is not None and coding != b"chunked":
            self._stop(RequestError("no transfer coding but chunked is understood here", status=501))
        declared = int(named.get(b"content-length", b"0"))
        self._has_body = declared > 0 or coding is not None
        if declared > self._limits.max_body_bytes:
            self._stop(_too_large(self._limits.max_body_bytes))
        expectation = named.get(b"expect")
        if expectation is not None and expectation.lower() != b"100-continue":
            self._stop(RequestError("no expectation but 100-continue can be met", status=417))
        self.expects_continue = expectation is not None and self._has_body and self._modern


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(f"the body is larger than {max_bytes} bytes", status=413, code="request_too_large")


def _head_too_large(max_bytes: int) -> RequestError:
    return RequestError(f"the request's head is larger than {max_bytes} bytes", status=431)
