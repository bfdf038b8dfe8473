"""Where a client's requests go."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Origin:
    """A server's address. Values, so that equal ones share connections."""

    host: str
    port: int
    context: ssl.SSLContext | None = None
    """For HTTPS."""

    @property
    def named(self) -> bytes:
        """As the Host header names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == self._usual_port else f"{host}:{self.port}").encode("idna")

    @property
    def _usual_port(self) -> int:
        return 443 if self.context else 80


def split_url(url: str, context: ssl.SSLContext | None = None) -> tuple[Origin, bytes]:
    """A base URL (http or https, checked before) as its origin and its path without a closing slash.

    ``context`` is used for https; None makes one that trusts the system's authorities.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if secure and context is None:
        context = ssl.create_default_context()
    origin = Origin(parts.hostname or "", parts.port or (443 if secure else 80), context if secure else None)
    return origin, parts.path.rstrip("/").encode()
