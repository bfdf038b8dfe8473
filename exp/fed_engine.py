"""A mock vLLM server with a state feed, so that a real predictor can stand beside it.

``python -m exp.fed_engine NAME PORT FEED CHUNKS TICK_S``. At each tick it publishes its streams as running
requests. ``POST /feed/garble`` has it publish garbage instead, ``POST /feed/heal`` ends that.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import time

import msgspec
import uvloop
import zmq

from block.messages import FeedMessage
from block.types import EngineLimits, EngineState, RequestState, RequestStatus
from exp.mock_engine import MockConnection, MockEngine
from exp.simulated_feed import SimulatedFeed

PROMPT_TOKENS = 64
LIMITS = EngineLimits(
    block_size=16, total_blocks=20_000, max_num_seqs=1024, max_num_batched_tokens=2048, max_model_len=4096
)
_FEED_ORDERS = {b"/feed/garble": True, b"/feed/heal": False}


class FedEngine(MockEngine):
    """Streams as a mock does, and tells of them."""

    def __init__(self, name: str, chunks: int, tick_s: float, socket_: zmq.Socket[bytes]) -> None:
        """``socket_``: XPUB, bound."""
        super().__init__(name, chunks, tick_s)
        self.garbled = False
        """Whether garbage is published."""
        self._socket = socket_
        self._requests: dict[asyncio.Transport, tuple[str, float]] = {}
        """Id and time of arrival."""
        self._feed = SimulatedFeed()
        self._step = 0
        self._engine_id = f"{name}-{time.time()}"
        self._encoder = msgspec.msgpack.Encoder()
        self._dice = random.Random(0)

    def announce(self, transport: asyncio.Transport, id_: str) -> None:
        """The stream that is about to begin on ``transport`` has this id."""
        self._requests[transport] = id_, time.time()

    def _tick(self) -> None:
        super()._tick()
        self._step += 1
        state = self._state()
        if self._subscribed():
            self._feed = SimulatedFeed()
            self._send(self._feed.snapshot(state))
        else:
            self._send(self._feed.delta(state))

    def _state(self) -> EngineState:
        self._requests = {key: value for key, value in self._requests.items() if key in self._left}
        running = tuple(
            RequestState(
                id=id_,
                status=RequestStatus.RUNNING,
                arrival_s=arrival_s,
                prompt_tokens=PROMPT_TOKENS,
                max_tokens=self._chunks,
                # Between steps, the newest token is still to be computed.
                computed_tokens=PROMPT_TOKENS + self._chunks - self._left[transport] - 1,
                generated_tokens=self._chunks - self._left[transport],
            )
            for transport, (id_, arrival_s) in self._requests.items()
        )
        used = sum(-(-request.computed_tokens // LIMITS.block_size) for request in running)
        return EngineState(
            engine_id=self._engine_id,
            step=self._step,
            time_s=time.time(),
            limits=LIMITS,
            running=running,
            free_blocks=LIMITS.total_blocks - used,
        )

    def _subscribed(self) -> bool:
        subscribed = False
        while self._socket.poll(0, zmq.POLLIN):
            subscribed |= self._socket.recv(zmq.NOBLOCK).startswith(b"\x01")
        return subscribed

    def _send(self, message: FeedMessage) -> None:
        data = self._encoder.encode(message)
        if self.garbled:
            cut = data[: self._dice.randrange(len(data))]
            data = self._dice.choice((cut, self._dice.randbytes(len(data)), b""))
        self._socket.send(data, zmq.NOBLOCK)


class FedConnection(MockConnection):
    """Knows the ids of requests."""

    def __init__(self, engine: FedEngine) -> None:
        super().__init__(engine)
        self._fed = engine
        self._id = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of a request."""
        if name.lower() == b"x-request-id":
            self._id = value.decode("latin-1")

    def on_message_complete(self) -> None:
        """Answer it."""
        order = _FEED_ORDERS.get(self._url)
        if order is not None:
            self._fed.garbled = order
        self._fed.announce(self._transport, f"chatcmpl-{self._id}-00000000")
        super().on_message_complete()


async def _serve(name: str, port: int, feed: str, chunks: int, tick_s: float) -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.setsockopt(zmq.LINGER, 0)
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        publisher.bind(feed)
        engine = FedEngine(name, chunks, tick_s, publisher)
        listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: FedConnection(engine), sock=listener, backlog=4096)
        await server.serve_forever()


if __name__ == "__main__":
    own_name, own_port, own_feed, own_chunks, own_tick = sys.argv[1:]
    uvloop.run(_serve(own_name, int(own_port), own_feed, int(own_chunks), float(own_tick)))
