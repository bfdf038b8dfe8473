"""Replies that this service writes itself: errors in OpenAI's shape."""

from __future__ import annotations

import math

import msgspec

from block.errors import RequestError
from block.http.message import Headers


class ErrorInfo(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """What OpenAI's API answers with a 4xx or 5xx."""

    error: ErrorInfo


def error_body(error: RequestError) -> bytes:
    """``{"error": {"message", "type", "param", "code"}}``."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return msgspec.json.encode(ErrorBody(ErrorInfo(error.message, kind, error.param, error.code)))


def error_event(error: RequestError) -> bytes:
    """The same as a server-sent event; what ends a stream that broke."""
    return b"data: " + error_body(error) + b"\n\n"


def error_headers(error: RequestError) -> Headers:
    """What goes with such a body."""
    headers = [(b"content-type", b"application/json")]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    return headers
