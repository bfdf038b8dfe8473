"""The client's side of one exchange: who works on its answer, and what its leaving and its pace do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from block.http.exchange import Exchange


class ClientGoneError(Exception):
    """The client left, or stopped reading, before its answer was complete."""


class Source(Protocol):
    """Where the bytes for a client come from, and can be held back."""

    def pause(self) -> None:
        """The client does not keep up."""
        ...

    def resume(self) -> None:
        """It does again."""
        ...


class Client:
    """One request's client. Its leaving cancels the work on its answer, and so does the server's end."""

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        """``loop``: the running one."""
        self.exchange = exchange
        self.left = False
        """Whether it has gone before its answer was complete; else a cancellation is the server's end."""
        self.source: Source | None = None
        """What to hold back while it reads too slowly."""
        self._loop = loop
        self._worker: asyncio.Task[None] | None = None

    def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """Have its answer worked on."""
        self._worker = self._loop.create_task(work)
        self.exchange.listener = self

    # The exchange's side

    def gone(self) -> None:
        """The client has left: stop working for it."""
        self.left = True
        self.interrupted()

    def interrupted(self) -> None:
        """The server ends: stop working."""
        if self._worker is not None:
            self._worker.cancel()

    def pause(self) -> None:
        """Hold the source back."""
        if self.source is not None:
            self.source.pause()

    def resume(self) -> None:
        """Let it go on."""
        if self.source is not None:
            self.source.resume()
