"""Keys: read by reference, compared in constant time, never shown. And who may listen where.

Of a key that a service takes, only a digest is kept, under a secret of the process: neither the time that
a comparison takes nor a picture of the memory tells the key.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import secrets
import socket
from hashlib import blake2b
from pathlib import Path

from block.errors import ConfigError
from block.http.message import Headers
from block.operation import AccessSettings, SecretSource

SHORTEST_KEY = 8
"""Characters. What is shorter is a mistake, or soon guessed."""
CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
"""Headers in which clients bring a key: OpenAI's, and Anthropic's."""
_USUAL_VARIABLE = "OPENAI_API_KEY"

logger = logging.getLogger(__name__)


class Keyring:
    """The keys that a service takes."""

    def __init__(self, source: SecretSource, place: str) -> None:
        """``place`` names the setting in errors. Raises ConfigError if there is no key to be had."""
        self._source = source
        self._place = place
        self._salt = secrets.token_bytes(16)
        self._digests = self._read()

    @property
    def files(self) -> tuple[Path, ...]:
        """What to call ``renew`` for when it changes."""
        return () if self._source.file is None else (self._source.file,)

    def admits(self, key: bytes) -> bool:
        """Whether it is one of them; takes as long for each that is none."""
        given = self._digest(key)
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, given)
        return found

    def renew(self) -> None:
        """Read them again; if they cannot be had, the old ones stay."""
        try:
            self._digests = self._read()
        except ConfigError as error:
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("%s: %d keys read", self._place, len(self._digests))

    def _read(self) -> tuple[bytes, ...]:
        return tuple(map(self._digest, read_secrets(self._source, self._place)))

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, key=self._salt, digest_size=32).digest()


def read_secrets(source: SecretSource, place: str) -> tuple[bytes, ...]:
    """What ``source`` holds, at least one. Raises ConfigError, which names ``place`` and shows no value."""
    text, where = _text_of(source, place)
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found = [word for line in lines for word in line.split()]
    if not found:
        raise ConfigError(f"{where}: holds no key; put one there, or leave the setting out")
    for number, word in enumerate(found, 1):
        if len(word) < SHORTEST_KEY or not (word.isascii() and word.isprintable()):
            raise ConfigError(
                f"{where}: key {number} must be at least {SHORTEST_KEY} characters of printable ASCII"
            )
    return tuple(word.encode() for word in found)


def bearer(source: SecretSource | None, place: str) -> Headers:
    """The header that brings the first of its secrets to a server; none without a source."""
    if source is None:
        return []
    return [(b"authorization", b"Bearer " + read_secrets(source, place)[0])]


def client_key(variable: str | None, place: str) -> str | None:
    """The key that a client of ours brings to somebody's OpenAI endpoint.

    From the environment's ``variable``, which must be there; without one from OPENAI_API_KEY, if that is set.
    How long it must be is the endpoint's business. Raises ConfigError, which shows no value.
    """
    name = variable or _USUAL_VARIABLE
    key = os.environ.get(name, "").strip()
    if not key and variable is not None:
        raise ConfigError(f"{place} {name}: there is no such environment variable, or it is empty; set it")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{place} {name}: must be one line of printable ASCII")
    return key or None


def brought_key(headers: Headers) -> bytes | None:
    """The key that a request brings, if any: ``Authorization: Bearer KEY``, or ``X-Api-Key: KEY``."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return key.strip()
        elif name == b"x-api-key":
            return value
    return None


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what listens at ``host``."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def check_exposure(host: str, access: AccessSettings, source: str) -> None:
    """Raise ConfigError for a service that anybody could use from elsewhere, unless that is wanted."""
    if access.keys is None and not access.allow_anyone and not is_loopback(host):
        raise ConfigError(
            f"{source}: host = {host!r}: others could use it, and settings.access.keys names no keys; "
            "name them (env or file), or say --allow-anyone"
        )


def _text_of(source: SecretSource, place: str) -> tuple[str, str]:
    """The text, and where it was found."""
    if source.env is not None:
        where = f"{place}.env = {source.env}"
        if source.env not in os.environ:
            raise ConfigError(f"{where}: there is no such environment variable; set it")
        return os.environ[source.env], where
    assert source.file is not None
    where = f"{place}.file = {source.file}"
    try:
        return source.file.read_text(encoding="utf-8"), where
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is no text; write one key a line") from error
