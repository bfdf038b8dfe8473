"""A service on a free local port, in the test's own event loop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from block.http.server import Server, Service


@asynccontextmanager
async def serving(service: Service, grace_s: float = 0.2) -> AsyncIterator[str]:
    """Its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = Server(service)
    await server.start(listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await server.stop(grace_s)
