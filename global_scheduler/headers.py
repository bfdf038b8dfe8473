"""HTTP headers: what travels on in either direction, and the request's id."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from block.http.message import Headers

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
"""Headers that the HTTP client, the server or this service writes itself."""
_DROPPED = _HOP_BY_HOP | _SET_ANEW
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def text_headers(raw: Headers) -> dict[str, str]:
    """Name (lower case) -> value; the last one wins."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


def request_id(headers: Mapping[str, str]) -> str:
    """The client's ``x-request-id`` if it is sane, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else secrets.token_hex(16)


def unique_id(client_id: str) -> str:
    """What the fleet knows a request by: clients use an id again, and predictors must tell them apart."""
    return f"{client_id}-{secrets.token_hex(6)}"


def forwarded_request(raw: Headers, id_: str) -> Headers:
    """End-to-end request headers for an instance, with the request's id."""
    return [*_end_to_end(raw), (b"x-request-id", id_.encode())]


def forwarded_response(raw: Headers) -> Headers:
    """End-to-end response headers for the client; the id and the length are set by this service."""
    return _end_to_end(raw)


def _end_to_end(raw: Headers) -> Headers:
    dropped = _DROPPED
    for name, value in raw:
        if name == b"connection":
            dropped = dropped.union(token.strip().lower() for token in value.split(b","))
    return [header for header in raw if header[0] not in dropped]
