"""A server: listens, keeps its connections, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from block.errors import RequestError
from block.http.deadlines import Deadlines
from block.http.exchange import Exchange
from block.http.limits import Limits
from block.http.server_connection import ServerConnection

BACKLOG = 2048
FLUSH_S = 2.0
"""After the grace: how long what was written last may take to go out."""

HANDSHAKE_S = 10.0
"""What a TLS client may take to shake hands, and to say farewell."""

logger = logging.getLogger(__name__)


class Service(Protocol):
    """What is served. Its methods run on the server's event loop."""

    @property
    def limits(self) -> Limits:
        """Bounds on its clients."""
        ...

    async def open(self) -> None:
        """Get ready; the server listens afterwards."""
        ...

    async def close(self) -> None:
        """Let everything go; no exchange is open any more."""
        ...

    def handle(self, exchange: Exchange) -> None:
        """A request has come, whole: answer it, now or later."""
        ...

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        """What came is not to be served: say so, now. The request may be known in part only."""
        ...

    def renew(self) -> None:
        """Somebody sent SIGHUP: read keys again, open log files anew."""
        ...


class Server:
    """Serves one service on the running event loop."""

    def __init__(self, service: Service, context: ssl.SSLContext | None = None) -> None:
        """``context``: for HTTPS."""
        self._service = service
        self._context = context
        self._connections: set[ServerConnection] = set()
        self._listeners: list[asyncio.Server] = []
        self._emptied = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.limits = service.limits
        self.draining = False
        self._deadlines = Deadlines(self.loop)

    async def start(self, listener: socket.socket) -> None:
        """Open the service, then accept connections of ``listener``, which is closed with the server."""
        await self._service.open()
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
        patience_s = None if self._context is None else HANDSHAKE_S
        self._listeners.append(
            await self.loop.create_server(
                lambda: ServerConnection(self),
                sock=listener,
                backlog=BACKLOG,
                ssl=self._context,
                ssl_handshake_timeout=patience_s,
                ssl_shutdown_timeout=patience_s,
            )
        )

    async def stop(self, grace_s: float) -> None:
        """Accept no more; let open exchanges end for ``grace_s``, then interrupt them; close the service."""
        for listener in self._listeners:
            listener.close()
        self.draining = True
        self._all(ServerConnection.drain)
        await self._empty(grace_s)
        self._all(ServerConnection.interrupt)
        await self._empty(FLUSH_S)
        self._all(ServerConnection.abort)
        await self._empty(FLUSH_S)
        self._deadlines.close()
        await self._service.close()

    # The connections' side

    def handle(self, exchange: Exchange) -> None:
        """The process boundary for defects of the service."""
        try:
            self._service.handle(exchange)
        except Exception:
            logger.exception("%s failed", exchange.request.path[:200])
            if not exchange.started:
                self.refuse(exchange, RequestError("internal error", status=500))

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        """Have the service say what is wrong."""
        self._service.refuse(exchange, error)

    def enter(self, connection: ServerConnection) -> None:
        """A connection has been opened."""
        self._connections.add(connection)
        self._deadlines.watch(connection)

    def leave(self, connection: ServerConnection) -> None:
        """A connection has been closed."""
        self._connections.discard(connection)
        self._deadlines.forget(connection)
        if not self._connections:
            self._emptied.set()

    def _all(self, what: Callable[[ServerConnection], None]) -> None:
        for connection in tuple(self._connections):
            what(connection)

    async def _empty(self, within_s: float) -> None:
        """Wait until no connection is left, but no longer than ``within_s``."""
        if self._connections:
            self._emptied.clear()
            try:
                await asyncio.wait_for(self._emptied.wait(), within_s)
            except TimeoutError:
                return
