"""A server's certificate: from its files to what asyncio takes, and anew when they change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from block.errors import ConfigError
from block.operation import TlsSettings

logger = logging.getLogger(__name__)

_CAUSES = {  # by OpenSSL's reason, which is not there for what it cannot even read
    "KEY_VALUES_MISMATCH": "the private key does not belong to the certificate",
    "None": "one of them holds no PEM text of the kind that belongs there, or a damaged one",
    "EE_KEY_TOO_SMALL": "the certificate's key is too short for today's TLS",
    "CA_MD_TOO_WEAK": "the certificate is signed with a digest that is broken",
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where it lies."""

    settings: TlsSettings
    place: str = "tls"
    """Names the settings in errors."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What to call ``renew`` for when it changes."""
        return tuple(file for file in (self.settings.certificate, self.settings.key) if file is not None)

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError that names the file and what is wrong with it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._check_readable()
        try:
            context.load_cert_chain(self.settings.certificate, self.settings.key, password=_refuse_password)
        except _EncryptedKeyError as error:
            raise self._wrong("the private key is encrypted; give it without a passphrase") from error
        except (OSError, ssl.SSLError) as error:
            cause = str(getattr(error, "reason", None))
            raise self._wrong(_CAUSES.get(cause, f"cannot be used ({error})")) from error
        return context

    def renew(self, context: ssl.SSLContext) -> None:
        """Read the files again, for connections to come; what is not usable changes nothing."""
        try:
            self.context()  # a failure half-way would spoil the one in use
            context.load_cert_chain(self.settings.certificate, self.settings.key, password=_refuse_password)
        except (ConfigError, OSError, ssl.SSLError) as error:
            logger.error("the certificate stays as it was: %s", error)
        else:
            logger.info("%s.certificate = %s: read again", self.place, self.settings.certificate)

    def _check_readable(self) -> None:
        for name in ("certificate", "key"):
            file = getattr(self.settings, name)
            if file is None:
                continue
            try:
                file.read_bytes()
            except OSError as error:
                raise ConfigError(
                    f"{self.place}.{name} = {file}: cannot be read ({error.strerror}); check the path"
                ) from error

    def _wrong(self, what: str) -> ConfigError:
        named = f"{self.place}.certificate = {self.settings.certificate}"
        if self.settings.key is not None:
            named += f", {self.place}.key = {self.settings.key}"
        return ConfigError(f"{named}: {what}")


class Encryption:
    """A certificate and what asyncio made of it, for all workers. Raises ConfigError if it is not usable."""

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate
        self.context = certificate.context()

    def renew(self) -> None:
        """Read the certificate again."""
        self.certificate.renew(self.context)


class _EncryptedKeyError(Exception):
    """Somebody would have to type a passphrase."""


def _refuse_password() -> str:
    raise _EncryptedKeyError
