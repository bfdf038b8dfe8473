"""What a request's head says to this service, made once for all requests that begin alike."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from block.http.message import RequestHead, header_lines
from global_scheduler.endpoints import ENDPOINTS, Reader
from global_scheduler.headers import ForwardedHeaders, extension_headers


class Envelope(msgspec.Struct, frozen=True):
    """Of a request to one of the endpoints."""

    read: Reader
    """The endpoint's."""
    extensions: Mapping[str, str]
    """Headers for this service."""
    path: bytes
    """Where it goes at an instance, with its query."""
    lines: bytes
    """What an instance gets of its headers, but for the id; each is ended by its line end."""

    @classmethod
    def of(cls, head: RequestHead, forwarded: ForwardedHeaders) -> Envelope:
        """Its path is among the endpoints."""
        lines = header_lines(forwarded.of(head.headers))
        return cls(ENDPOINTS[head.path], extension_headers(head.headers), head.relative, lines)
