"""HTTP headers: what travels on in either direction, and the request's id."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from block.access import CREDENTIALS, bearer
from block.http.message import Headers, ResponseHead, response_lines
from block.operation import UpstreamSettings

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
_NOT_SENT = _DROPPED | {b"accept-encoding"}
"""Answers are read on their way, event by event, so that they must not come compressed."""
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def extension_headers(raw: Headers) -> dict[str, str]:
    """Those whose names begin with ``x-``: name (lower case) -> value; the last one wins."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw if name[:2] == b"x-"}


def request_ids(headers: Mapping[str, str]) -> tuple[str, str]:
    """The client's ``x-request-id`` if it is sane, else a new one; and what the fleet knows it by.

    Clients use an id again, and predictors must tell requests apart.
    """
    given = headers.get("x-request-id")
    token = random.getrandbits(176).to_bytes(22).hex()  # unlike all others: nobody must fail to guess it
    client_id = given if given and _SANE_ID.fullmatch(given) else token[:32]
    return client_id, f"{client_id}-{token[32:]}"


class ForwardedHeaders:
    """What instances get of a request's headers."""

    def __init__(self, upstream: UpstreamSettings) -> None:
        """Raises ConfigError if the engines' key cannot be read."""
        self._dropped = _NOT_SENT if upstream.forward_client_key else _NOT_SENT | CREDENTIALS
        self.own = bearer(upstream.engine_key, "settings.upstream.engine_key")
        """This service's own, with which it shows itself to instances."""

    def of(self, raw: Headers) -> Headers:
        """Those that go from end to end, our own, and the client's key if it is wanted; not the id."""
        return [*_end_to_end(raw, self._dropped), *self.own]


def forwarded_response(head: ResponseHead) -> bytes:
    """Status line and end-to-end headers for the client; the id and the length are set by this service."""
    return response_lines(head.status, _end_to_end(head.headers, _DROPPED))


def _end_to_end(raw: Headers, dropped: frozenset[bytes]) -> Headers:
    kept, connection = [], b""
    for header in raw:
        if header[0] not in dropped:
            kept.append(header)
        elif header[0] == b"connection":
            connection += header[1].lower() + b","
    if connection in (b"", b"keep-alive,"):
        return kept
    named = {token.strip() for token in connection.split(b",")}
    return [header for header in kept if header[0] not in named]
