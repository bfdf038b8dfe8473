"""The feed's own thread: owns the socket, encodes what the engine's thread captured, sends it.

A reader that subscribes gets a snapshot; then everyone gets deltas, and a heartbeat in quiet times.
A slow reader loses messages (ZMQ drops them), sees the gap, and subscribes anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

import msgspec
import zmq

from block.errors import FeedError
from block.messages import FeedMessage
from block.vllm_plugin.boundary import Boundary
from block.vllm_plugin.capture import Capture
from block.vllm_plugin.feed_state import FeedState

HEARTBEAT_S = 0.5
POLL_S = 0.02
"""How long a new reader of a quiet engine may wait for its snapshot."""
MOST_UNSENT = 4096
"""Captures that may queue up before the feed gives up: minutes of steps, a few hundred MB at the worst."""
SUBSCRIBE = b"\x01"


class Publisher:
    """Takes captures from the engine's thread; everything else happens on its own thread."""

    def __init__(
        self, address: str, state: FeedState, boundary: Boundary, clock: Callable[[], float] = time.time
    ) -> None:
        self._address = address
        self._state = state
        self._boundary = boundary
        self._clock = clock
        self._captures: SimpleQueue[Capture | None] = SimpleQueue()
        self._encoder = msgspec.msgpack.Encoder()
        self._has_readers = False
        self._thread = threading.Thread(
            target=boundary.run, args=(self._run,), name="state-feed", daemon=True
        )
        self._thread.start()

    def put(self, capture: Capture) -> None:
        """Hand over a capture; never blocks. Raises FeedError if the feed's thread does not keep up."""
        if self._captures.qsize() >= MOST_UNSENT:
            raise FeedError(f"{MOST_UNSENT} captures are waiting: the feed's thread does not keep up")
        self._captures.put(capture)

    def close(self) -> None:
        """Send what was captured, then end the thread."""
        self._captures.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            # Also a subscription to what is already subscribed to is told: that is how readers ask again.
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)
            self._bind(socket)
            self._serve(socket)

    def _bind(self, socket: zmq.Socket[bytes]) -> None:
        try:
            socket.bind(self._address)
        except zmq.ZMQError as error:
            raise FeedError(f"block.feed.address = {self._address!r}: cannot be bound ({error})") from error

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        quiet_since_s = time.monotonic()
        while True:
            try:
                capture = self._captures.get(timeout=POLL_S)
            except Empty:
                message = self._heartbeat_if_due(quiet_since_s)
            else:
                if capture is None:
                    return
                message = self._state.update(capture)
            if message is not None:
                self._send(socket, message)
                quiet_since_s = time.monotonic()
            if self._someone_subscribed(socket):
                self._send(socket, self._state.snapshot())

    def _heartbeat_if_due(self, quiet_since_s: float) -> FeedMessage | None:
        if time.monotonic() - quiet_since_s < HEARTBEAT_S:
            return None
        return self._state.heartbeat(self._clock())

    def _send(self, socket: zmq.Socket[bytes], message: FeedMessage) -> None:
        if self._has_readers:
            socket.send(self._encoder.encode(message), zmq.NOBLOCK)

    def _someone_subscribed(self, socket: zmq.Socket[bytes]) -> bool:
        subscribed = False
        while socket.poll(0, zmq.POLLIN):
            self._has_readers = socket.recv(zmq.NOBLOCK).startswith(SUBSCRIBE)
            subscribed |= self._has_readers
        return subscribed
