"""HTTP headers: what travels on in either direction, and the request's id."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping

RawHeaders = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_SET_ANEW = frozenset({b"host", b"content-length", b"expect", b"x-request-id"})
"""Request headers that the HTTP client or this service writes itself."""
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def text_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Name (lower case) -> value; the last one wins."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


def request_id(headers: Mapping[str, str]) -> str:
    """The client's ``x-request-id`` if it is sane, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else secrets.token_hex(16)


def unique_id(client_id: str) -> str:
    """What the fleet knows a request by: clients use an id again, and predictors must tell them apart."""
    return f"{client_id}-{secrets.token_hex(6)}"


def forwarded_request(raw: Iterable[tuple[bytes, bytes]], id_: str) -> list[tuple[str, str]]:
    """End-to-end request headers for an instance, with the request's id."""
    kept = [
        (name.decode("latin-1"), value.decode("utf-8", "replace"))
        for name, value in _end_to_end(list(raw))
        if name.lower() not in _SET_ANEW
    ]
    return [*kept, ("X-Request-Id", id_)]


def forwarded_response(raw: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """End-to-end response headers for the client, names in lower case; the id is set by this service."""
    return [
        (name.lower(), value) for name, value in _end_to_end(list(raw)) if name.lower() != b"x-request-id"
    ]


def _end_to_end(raw: list[tuple[bytes, bytes]]) -> RawHeaders:
    named = {
        token.strip().lower()
        for name, value in raw
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    return [(name, value) for name, value in raw if name.lower() not in _HOP_BY_HOP | named]
