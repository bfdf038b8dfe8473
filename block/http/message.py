"""HTTP messages as values, and their heads as bytes."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Self, TypeVar

import msgspec

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, values without surrounding blanks, in the order of the wire."""

MadeT = TypeVar("MadeT")

_STATUS_LINES = {one.value: b"HTTP/1.1 %d %b\r\n" % (one, one.phrase.encode()) for one in HTTPStatus}
MOST_MADE = 16
"""Things that are kept with one head."""
BODILESS = frozenset({204, 304})
"""Statuses whose answers never have a body."""


class _Head:
    """What a message says before its body, but for the body's length; not to be changed.

    Messages that begin alike may share one, and so what is made of it.
    """

    __slots__ = ("_made", "headers")

    def __init__(self, headers: Headers) -> None:
        """A ``content-length`` among ``headers`` is left out."""
        self.headers = [header for header in headers if header[0] != b"content-length"]
        self._made: dict[Callable[[Any], Any], Any] = {}

    def once(self, make: Callable[[Self], MadeT]) -> MadeT:
        """What ``make`` makes of it: at the first time, for it is kept with the head, and so is ``make``."""
        made = self._made
        if make not in made:
            if len(made) == MOST_MADE:
                made.clear()
            made[make] = make(self)
        return made[make]  # type: ignore[no-any-return]


class RequestHead(_Head):
    """Of a request."""

    __slots__ = ("method", "path", "relative", "target")

    def __init__(self, method: bytes, target: bytes, headers: Headers) -> None:
        super().__init__(headers)
        self.method = method
        self.target = target
        """As it came: usually a path with its query."""
        self.relative = _relative(target)
        """Path and query; of an absolute target (``http://host/path``) without the part before them."""
        self.path = self.relative.partition(b"?")[0]
        """The target's path, still percent-encoded."""


class ResponseHead(_Head):
    """Of an answer."""

    __slots__ = ("status",)

    def __init__(self, status: int, headers: Headers) -> None:
        super().__init__(headers)
        self.status = status


class Request(msgspec.Struct, frozen=True, eq=False):
    """A request, whole."""

    head: RequestHead
    body: bytes = b""

    @property
    def method(self) -> bytes:
        """The head's, like the next three."""
        return self.head.method

    @property
    def target(self) -> bytes:
        """As it came."""
        return self.head.target

    @property
    def path(self) -> bytes:
        """The target's path, still percent-encoded."""
        return self.head.path

    @property
    def headers(self) -> Headers:
        """Without the length."""
        return self.head.headers


class Response(msgspec.Struct, frozen=True):
    """An answer, whole."""

    status: int
    headers: Headers = []
    body: bytes = b""


def first_value(headers: Headers, name: bytes) -> bytes | None:
    """Value of the first header of that name (lower case)."""
    for key, value in headers:
        if key == name:
            return value
    return None


def transfer_coding(headers: Headers) -> bytes | None:
    """All transfer codings that a head names, however many lines it takes; None if it names none."""
    values = [value for name, value in headers if name == b"transfer-encoding"]
    return b",".join(values).lower() if values else None


def response_lines(status: int, headers: Headers) -> bytes:
    """Status line and headers, each ended by its line end, without the blank line that ends a head."""
    first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return first + header_lines(headers)


def header_lines(headers: Headers) -> bytes:
    """Each ended by its line end."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def request_head(method: bytes, target: bytes, host: bytes, lines: bytes, body_bytes: int) -> bytes:
    """A request's head, ended by its blank line; ``lines`` as ``header_lines`` makes them."""
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%bcontent-length: %d\r\n\r\n" % (
        method,
        target,
        host,
        lines,
        body_bytes,
    )


def _relative(target: bytes) -> bytes:
    if target[:1] == b"/" or b"://" not in target:
        return target
    _, slash, rest = target.partition(b"://")[2].partition(b"/")
    return slash + rest or b"/"
