"""A process that serves: its socket, its signals, its end; or several of them beside each other."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import uvloop

from block.errors import ConfigError
from block.file_watch import FileWatch
from block.http.server import Server, Service
from block.http.tls import Certificate, Encryption
from block.http.workers import Pulse, supervise

GARBAGE_THRESHOLD = 100_000
"""New objects between two searches for cycles. Requests leave none behind, so that few are worth while."""

PULSE_S = 1.0
"""Between two signs of life to the supervisor."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a server listens."""

    host: str
    port: int
    shared: bool = False
    """Whether other processes listen there as well: the kernel deals the connections out."""
    certificate: Certificate | None = None
    """None serves plain HTTP."""

    def listen(self) -> socket.socket:
        """Raises ConfigError if the address cannot be had."""
        try:
            family, *_, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise self._unusable(error) from error
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise self._unusable(error) from error
        return listener

    def _unusable(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self.host}:{self.port}: cannot listen there ({error.strerror or error})")


def run(
    make_service: Callable[[int | None], Service], binding: Binding, grace_s: float, workers: int = 1
) -> None:
    """Serve until SIGTERM or SIGINT, then let open exchanges end for ``grace_s``. Raises ConfigError.

    Several ``workers`` are processes that share the address and nothing else; the kernel deals the
    connections out to them. ``make_service`` gets a worker's number, or None if there is but one.
    """
    if workers == 1:
        run_together([(make_service(None), binding)], grace_s)
        return
    encryption = _encryption(binding)
    make_service(0)  # so that what is wrong with the settings is said once
    binding = replace(binding, shared=True)
    with binding.listen() as place:  # holds the port, and accepts nothing itself
        binding = replace(binding, port=place.getsockname()[1])
        supervise(
            workers,
            lambda number, lifeline, pulse: _run(
                [_Post(make_service(number), binding.listen(), encryption)], grace_s, lifeline, pulse
            ),
        )


def run_together(services: Sequence[tuple[Service, Binding]], grace_s: float) -> None:
    """The same for several services in this one process, on one event loop. Raises ConfigError."""
    _run([_Post.at(service, binding) for service, binding in services], grace_s)


@dataclass(frozen=True, slots=True)
class _Post:
    """A service at its place."""

    service: Service
    listener: socket.socket
    encryption: Encryption | None

    @classmethod
    def at(cls, service: Service, binding: Binding) -> Self:
        """Raises ConfigError if it cannot be there."""
        encryption = _encryption(binding)
        return cls(service, binding.listen(), encryption)


def _encryption(binding: Binding) -> Encryption | None:
    return None if binding.certificate is None else Encryption(binding.certificate)


def _run(
    posts: Sequence[_Post], grace_s: float, lifeline: int | None = None, pulse: Pulse | None = None
) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a stream takes two sockets
    gc.freeze()  # what is there now stays; looking at it again and again is wasted
    gc.set_threshold(GARBAGE_THRESHOLD)
    uvloop.run(_serve(posts, grace_s, lifeline, pulse))


async def _serve(posts: Sequence[_Post], grace_s: float, lifeline: int | None, pulse: Pulse | None) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    if pulse is not None:
        _beat(loop, pulse)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if lifeline is not None:
        loop.add_reader(lifeline, ended.set)
    renewals = [_Renewal(post.service, post.encryption) for post in posts]
    loop.add_signal_handler(signal.SIGHUP, _renew_all, renewals)
    servers = [await _started(post) for post in posts]
    await ended.wait()
    for renewal in renewals:
        renewal.stop()
    if lifeline is not None:
        loop.remove_reader(lifeline)
    logger.info("ending; open requests have %s s", grace_s)
    await asyncio.gather(*(server.stop(grace_s) for server in servers))


async def _started(post: _Post) -> Server:
    server = Server(post.service, None if post.encryption is None else post.encryption.context)
    await server.start(post.listener)
    logger.info("listening on %s:%s", *post.listener.getsockname()[:2])
    return server


class _Renewal:
    """Reads again what has changed, and on SIGHUP everything."""

    def __init__(self, service: Service, encryption: Encryption | None) -> None:
        self._service = service
        self._encryption = encryption
        files = () if encryption is None else encryption.certificate.files
        self._watch = FileWatch(files, self._certificate)

    def everything(self) -> None:
        logger.info("SIGHUP: reading keys and certificates again, opening files anew")
        self._certificate()
        self._service.renew()

    def stop(self) -> None:
        self._watch.stop()

    def _certificate(self) -> None:
        if self._encryption is not None:
            self._encryption.renew()


def _renew_all(renewals: Sequence[_Renewal]) -> None:
    for renewal in renewals:
        renewal.everything()


def _beat(loop: asyncio.AbstractEventLoop, pulse: Pulse) -> None:
    """Show that the loop turns."""
    pulse()
    loop.call_later(PULSE_S, _beat, loop, pulse)
