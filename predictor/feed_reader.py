"""Follows one engine's state feed and keeps its mirror current.

An engine may be absent, start later or restart: the reader waits, and says how long it has heard
nothing. What it cannot follow it asks for anew. Knows nothing of what the state is used for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import zmq

from block.errors import FeedError, StateError
from predictor.mirror import Mirror

RESYNC_INTERVAL_S = 0.25
"""Least time between two requests for a snapshot; also how long one is waited for."""
_KNOCK_AT_LEAST_MS = 1000

logger = logging.getLogger(__name__)


class FeedReader:
    """One SUB socket and the mirror that it feeds; ``follow`` is the task to start and to cancel."""

    def __init__(
        self, address: str, name: str | None = None, *, on_change: Callable[[], None] | None = None
    ) -> None:
        """``name``: what the log calls it; None: its address. ``on_change`` is called after every applied
        message, on the event loop.
        """
        self.mirror = Mirror()
        self.synchronised = False
        """Whether the mirror is as new as the feed; False from a gap until the snapshot that mends it."""
        self.problem = "no word from it yet"
        """Why the mirror is not synchronised; empty when it is."""
        self.last_message_s = time.monotonic()
        """Monotonic time of the last message that was applied; before the first, of this object's making."""
        self.resyncs = 0
        """Snapshots asked for after a gap or a bad message."""
        self._address = address
        self._name = name or address
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._readable = asyncio.Event()
        self._asked_at_s = float("-inf")

    async def changed(self) -> None:
        """Wait for the next applied message."""
        await self._changed.wait()

    async def follow(self) -> None:
        """Follow the feed until cancelled. Raises FeedError if the address cannot be used at all."""
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            # An engine may be away for hours, or never come: knock less and less often.
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, _KNOCK_AT_LEAST_MS)
            self._connect(socket)
            # Connecting subscribes, so a snapshot is on its way; deltas that overtake it are no gap.
            self._asked_at_s = time.monotonic()
            # ZMQ's own support for asyncio costs several times what reading a message does.
            loop, number = asyncio.get_running_loop(), socket.fileno()
            loop.add_reader(number, self._readable.set)
            try:
                while True:
                    self._readable.clear()
                    self._read_all(socket)
                    await self._readable.wait()
            finally:
                loop.remove_reader(number)

    def give_up(self, problem: str) -> None:
        """The mirror will not be in step again."""
        self.synchronised, self.problem = False, problem

    def _connect(self, socket: zmq.SyncSocket) -> None:
        try:
            socket.connect(self._address)
        except zmq.ZMQError as error:
            raise FeedError(f"feed address {self._address!r}: cannot be used ({error})") from error

    def _read_all(self, socket: zmq.SyncSocket) -> None:
        """All that is there: its descriptor does not tell again of what was left."""
        while True:
            try:
                data = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._read(socket, data)

    def _read(self, socket: zmq.SyncSocket, data: bytes) -> None:
        try:
            self.mirror.apply_bytes(data)
        except (FeedError, StateError) as error:
            self.synchronised, self.problem = False, str(error)
            self._ask_again(socket, str(error))
            return
        self.synchronised, self.problem = True, ""
        self.last_message_s = time.monotonic()
        if self._on_change is not None:
            self._on_change()
        self._changed.set()
        self._changed.clear()

    def _ask_again(self, socket: zmq.SyncSocket, problem: str) -> None:
        """Subscribe anew, which the engine answers with a snapshot; not more often than makes sense."""
        now_s = time.monotonic()
        if now_s - self._asked_at_s < RESYNC_INTERVAL_S:
            return
        self._asked_at_s = now_s
        self.resyncs += 1
        logger.warning("%s: asking its engine's feed for a snapshot: %s", self._name, problem)
        socket.setsockopt(zmq.UNSUBSCRIBE, b"")
        socket.setsockopt(zmq.SUBSCRIBE, b"")
