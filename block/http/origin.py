"""Where a client's requests go."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from block.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Origin:
    """A server's address. Values, so that equal ones share connections."""

    host: str
    port: int
    context: ssl.SSLContext | None = None
    """For HTTPS."""
    named: bytes = field(init=False, compare=False)
    """As the Host header names it."""
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        host = f"[{self.host}]".encode() if ":" in self.host else self.host.encode("idna")
        usual = self.port == (443 if self.context else 80)
        object.__setattr__(self, "named", host if usual else b"%b:%d" % (host, self.port))
        object.__setattr__(self, "_hash", hash((self.host, self.port, self.context)))

    def __hash__(self) -> int:
        return self._hash  # looked up for every request


def trusting(authorities: Path) -> ssl.SSLContext:
    """For clients that trust the authorities of a PEM file, and no others. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=str(authorities))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"authorities = {authorities}: cannot be used ({error}); give a PEM file of certificates"
        ) from error


def split_url(url: str, context: ssl.SSLContext | None = None) -> tuple[Origin, bytes]:
    """A base URL (http or https, checked before) as its origin and its path without a closing slash.

    ``context`` is used for https; None makes one that trusts the system's authorities.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if secure and context is None:
        context = ssl.create_default_context()
    origin = _origin(parts.hostname or "", parts.port or (443 if secure else 80), context if secure else None)
    return origin, parts.path.rstrip("/").encode()


@lru_cache(1024)
def _origin(host: str, port: int, context: ssl.SSLContext | None) -> Origin:
    """Equal ones are best one object: comparing them costs more than all else in looking one up."""
    return Origin(host, port, context)
