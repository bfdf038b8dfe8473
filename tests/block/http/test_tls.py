"""Certificates: clear words for wrong files, and new ones taken up while the server runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from certificates import write_certificate
from raw_http import Echo

from block.errors import ConfigError
from block.http.server import Server
from block.http.tls import Certificate, Encryption
from block.operation import TlsSettings


def certificate_at(certificate: Path, key: Path | None = None) -> Certificate:
    return Certificate(TlsSettings(certificate=certificate, key=key), "s.yaml: settings.tls")


@pytest.mark.parametrize(
    ("certificate", "key", "complaint"),
    [
        ("none.pem", None, r"settings.tls.certificate = .*none.pem: cannot be read \(No such file"),
        ("good.pem", "none.pem", r"settings.tls.key = .*none.pem: cannot be read \(No such file"),
        ("junk.pem", None, "no PEM text"),
        ("good.pem", "junk.pem", "no PEM text"),
        ("good.pem", "other.pem", "does not belong to the certificate"),
        ("locked.pem", None, "is encrypted"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, certificate: str, key: str | None, complaint: str):
    write_certificate(tmp_path / "good.pem")
    write_certificate(tmp_path / "other.pem")
    write_certificate(tmp_path / "locked.pem", passphrase=b"open sesame")
    (tmp_path / "junk.pem").write_text("junk")
    files = certificate_at(tmp_path / certificate, tmp_path / key if key else None)
    with pytest.raises(ConfigError, match=complaint):
        files.context()


async def test_a_new_certificate_serves_the_next_connection_and_a_broken_one_none(tmp_path: Path):
    file = tmp_path / "c.pem"
    write_certificate(file)
    encryption = Encryption(certificate_at(file))
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(Echo(), encryption.context)
    await server.start(listener)
    port = listener.getsockname()[1]
    first = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    assert first in file.read_text()
    write_certificate(file)
    encryption.renew()
    second = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    assert second != first
    assert second in file.read_text()
    file.write_text("junk")
    encryption.renew()
    assert await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port)) == second
    await server.stop(1)
