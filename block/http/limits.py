"""What a server grants a client: sizes, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one connection. Times are kept to about a tenth of a second."""

    max_head_bytes: int = 64 * 1024
    """Request line and headers together."""
    max_body_bytes: int = 16 * 2**20
    head_s: float = 20.0
    """From a request's first byte to the end of its headers."""
    idle_s: float = 120.0
    """Longest pause between two parts of a body, and longest time in which a client takes no byte."""
    keep_alive_s: float = 75.0
    """Between two requests; longer than common clients keep idle connections, so that it is they who
    close."""
    pipelined: int = 16
    """Requests that may wait on one connection; with more, nothing is read from it for a while."""
