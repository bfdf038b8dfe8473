"""Raw sockets and tiny services: HTTP as bytes, to see what really goes over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from block.errors import RequestError
from block.http.exchange import Exchange
from block.http.limits import Limits
from block.http.message import Request, response_lines


class Echo:
    """Answers each request with what it understood of it; remembers all."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.requests: list[Request] = []
        self.errors: list[RequestError] = []
        self.left: list[bytes] = []
        self.interrupted: list[bytes] = []
        self.held: list[Exchange] = []
        self.opened = self.closed = self.renewed = 0

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        self.requests.append(request)
        if request.path == b"/hold":
            self.held.append(exchange)
            exchange.listener = _Watcher(self, exchange)
        elif request.path == b"/fail":
            raise ZeroDivisionError("a defect of the service")
        elif request.path == b"/stream":
            exchange.start(response_lines(200, [(b"content-type", b"text/plain")]), b"one,")
            exchange.write(b"two,")
            exchange.finish(b"three")
        else:
            exchange.respond(200, [(b"x-method", request.method)], b"%b %b" % (request.target, request.body))

    def refuse(self, exchange: Exchange, error: RequestError) -> None:
        self.errors.append(error)
        exchange.respond(error.status, [], error.message.encode())

    def renew(self) -> None:
        self.renewed += 1


class _Watcher:
    def __init__(self, echo: Echo, exchange: Exchange) -> None:
        self._echo, self._exchange = echo, exchange

    def gone(self) -> None:
        self._echo.left.append(self._exchange.request.target)

    def interrupted(self) -> None:
        self._echo.interrupted.append(self._exchange.request.target)
        self._exchange.respond(503, [], b"ended")

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Wire:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *parts: bytes, pause_s: float = 0.0) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(pause_s)

    async def until(self, end: bytes, within_s: float = 5.0) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), within_s)

    async def all(self, within_s: float = 5.0) -> bytes:
        """What comes until the other side closes."""
        return await asyncio.wait_for(self.reader.read(), within_s)

    def reset(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def scripted_server(script: Callable[[Wire], object]) -> AsyncIterator[tuple[str, int]]:
    """A server that does with each connection what the script says."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            result = script(Wire(reader, writer))
            if asyncio.iscoroutine(result):
                await result
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield host, port
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
