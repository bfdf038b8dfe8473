"""Replies that this service writes itself: JSON, text, and errors in OpenAI's shape."""

from __future__ import annotations

import math

import msgspec
from starlette.types import Send

from block.errors import RequestError
from global_scheduler.headers import RawHeaders


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


async def send_error(send: Send, error: RequestError, headers: RawHeaders | None = None) -> None:
    """Answer with an error; a body that stopped arriving (408) closes the connection."""
    extra = list(headers or ())
    if error.retry_after_s is not None:
        extra.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if error.status == 408:
        extra.append((b"connection", b"close"))
    await send_whole(send, error.status, error_body(error), b"application/json", extra)


async def send_whole(
    send: Send, status: int, body: bytes, content_type: bytes, headers: RawHeaders | None = None
) -> None:
    """Answer with a body known in full."""
    start = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *(headers or ())]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
