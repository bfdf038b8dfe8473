"""A TCP proxy that does harm on order: stands before a server and spoils what it answers to POSTs.

Health pages and all else that is read with GET pass unharmed, so that whoever is behind the proxy looks
healthy. Knows of HTTP only how a request begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from enum import Enum, auto

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Harm(Enum):
    """What happens to the answers, from now on, on connections that are open as well."""

    NONE = auto()
    DELAY = auto()
    """Each part comes late."""
    RESET = auto()
    """Half of the first part, then a reset."""
    TRUNCATE = auto()
    """Half of the first part, then an orderly end."""
    GARBAGE = auto()
    """Random bytes in place of what was said."""
    SWALLOW = auto()
    """The requests never arrive."""


class FaultProxy:
    """Before one server on this machine."""

    def __init__(self, port: int, target_port: int, delay_s: float = 0.3) -> None:
        """Listens at ``port``; ``delay_s`` is what ``Harm.DELAY`` adds."""
        self.harm = Harm.NONE
        self._port = port
        self._target_port = target_port
        self._delay_s = delay_s
        self._dice = random.Random(0)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where to ask instead of the server."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=1024)

    async def stop(self) -> None:
        """Drop all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        await _Pair(self, (reader, writer), there).run()

    async def spoil(self, data: bytes, reset: Callable[[], None]) -> tuple[bytes, bool]:
        """What becomes of a part of an answer, and whether anything follows it."""
        match self.harm:
            case Harm.DELAY:
                await asyncio.sleep(self._delay_s)
            case Harm.GARBAGE:
                return self._dice.randbytes(len(data)), True
            case Harm.TRUNCATE:
                return data[: len(data) // 2], False
            case Harm.RESET:
                reset()
                return data[: len(data) // 2], False
            case _:
                pass
        return data, True


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pair:
    """One connection and its continuation."""

    def __init__(self, proxy: FaultProxy, here: _Ends, there: _Ends) -> None:
        self._proxy = proxy
        self._here = here
        self._there = there
        self._posts = False
        """Whether the request under way is one that may be harmed."""

    async def run(self) -> None:
        ways = [asyncio.create_task(way) for way in (self._requests(), self._answers())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for _, writer in (self._here, self._there):
                writer.close()

    async def _requests(self) -> None:
        (reader, _), (_, writer) = self._here, self._there
        swallowing = False
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                if data.startswith((b"POST", b"GET")):
                    self._posts = data.startswith(b"POST")
                swallowing = swallowing or (self._posts and self._proxy.harm is Harm.SWALLOW)
                if not swallowing:
                    writer.write(data)
                    await writer.drain()

    async def _answers(self) -> None:
        (reader, _), (_, writer) = self._there, self._here
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                goes_on = True
                if self._posts:
                    data, goes_on = await self._proxy.spoil(data, self._reset_on_close)
                writer.write(data)
                await writer.drain()
                if not goes_on:
                    return

    def _reset_on_close(self) -> None:
        sock: socket.socket = self._here[1].get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
