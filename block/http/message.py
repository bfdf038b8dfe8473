"""HTTP messages as values, and their heads as bytes."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, values without surrounding blanks, in the order of the wire."""

_STATUS_LINES = {one.value: b"HTTP/1.1 %d %b\r\n" % (one, one.phrase.encode()) for one in HTTPStatus}
BODILESS = frozenset({204, 304})
"""Statuses whose answers never have a body."""


class Request(msgspec.Struct, frozen=True):
    """A request, whole."""

    method: bytes
    target: bytes
    """As it came: usually a path with its query."""
    headers: Headers
    body: bytes = b""

    @property
    def path(self) -> bytes:
        """The target's path, still percent-encoded."""
        return self.relative.partition(b"?")[0]

    @property
    def relative(self) -> bytes:
        """Path and query; of an absolute target (``http://host/path``) without the part before them."""
        target = self.target
        if target[:1] == b"/" or b"://" not in target:
            return target
        _, slash, rest = target.partition(b"://")[2].partition(b"/")
        return slash + rest or b"/"


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


def response_head(status: int, headers: Headers, *, closes: bool) -> list[bytes]:
    """Status line and headers as pieces to join, without the blank line that ends a head."""
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    parts += [b"%b: %b\r\n" % header for header in headers]
    if closes:
        parts.append(b"connection: close\r\n")
    return parts


def request_head(method: bytes, target: bytes, host: bytes, headers: Headers, body_bytes: int) -> bytes:
    """A request's head, ended by its blank line."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%bcontent-length: %d\r\n\r\n" % (
        method,
        target,
        host,
        lines,
        body_bytes,
    )
