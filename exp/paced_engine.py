"""A mock engine that also tells its state feed: a token per step for everybody it holds.

It admits whoever comes, computes any prompt in one step, and streams to those who came over HTTP; some
seats belong to others and are taken again when they come free, as on an instance that several schedulers
use. Costs little, so that what reads its feed and what stands before it can be measured.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import cast

import httptools
import msgspec
import uvloop
import zmq

from block.types import (
    BatchShape,
    EngineLimits,
    EngineState,
    InFlightStep,
    RequestState,
    RequestStatus,
    StepRecord,
)
from exp.mock_engine import CHUNK, END, MODELS, STREAM_HEAD, answer
from exp.simulated_feed import SimulatedFeed

LIMITS = EngineLimits(
    block_size=16,
    total_blocks=8000,
    max_num_seqs=256,
    max_num_batched_tokens=8192,
    max_model_len=4096,
    async_scheduling=True,
)
BYTES_PER_TOKEN = 4
OTHERS_PROMPT_TOKENS = 250
OTHERS_TOKENS = (50, 500)


@dataclass(frozen=True, slots=True)
class Pace:
    """How quick an engine is, and how full without what is sent to it."""

    step_s: float
    others: int
    """Seats that are taken by requests of others."""


class _Body(msgspec.Struct):
    max_tokens: int = 16


@dataclass(slots=True)
class _Seat:
    id: str
    arrival_s: float
    prompt_tokens: int
    max_tokens: int
    transport: asyncio.Transport | None
    generated: int = 0

    def state(self) -> RequestState:
        """Right after a step was scheduled: its whole prompt in flight, or one token."""
        in_flight = 1 if self.generated else self.prompt_tokens
        return RequestState(
            id=self.id,
            status=RequestStatus.RUNNING,
            arrival_s=self.arrival_s,
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            computed_tokens=self.prompt_tokens + self.generated,
            generated_tokens=self.generated,
            in_flight_tokens=in_flight,
            newest_tokens=in_flight,
            output_placeholders=1,
        )


class PacedEngine:
    """One engine: who is in it, its steps, its feed."""

    def __init__(self, name: str, feed: str, pace: Pace) -> None:
        """``feed``: the ZMQ address to publish at."""
        self._name = name
        self._pace = pace
        self._source = random.Random(name)
        self._socket: zmq.SyncSocket = zmq.Context.instance().socket(zmq.XPUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.bind(feed)
        self._feed: SimulatedFeed | None = None
        self._seats: list[_Seat] = []
        self._under_way: InFlightStep | None = None
        self._steps = 0
        self._loop = asyncio.get_running_loop()
        self._next_s = self._loop.time() + self._source.uniform(0.0, pace.step_s)  # not all at once
        self._loop.call_at(self._next_s, self._step)

    def admit(self, id_: str, body: bytes, transport: asyncio.Transport) -> None:
        """A request has come; its stream begins with its first token."""
        prompt_tokens = max(1, len(body) // BYTES_PER_TOKEN)
        tokens = msgspec.json.decode(body, type=_Body).max_tokens
        engine_id = f"chatcmpl-{id_}-{self._source.getrandbits(32):08x}"
        self._seats.append(_Seat(engine_id, time.time(), prompt_tokens, tokens, transport))

    def forget(self, transport: asyncio.Transport) -> None:
        """Its client has gone."""
        self._seats = [seat for seat in self._seats if seat.transport is not transport]

    def _step(self) -> None:
        self._next_s += self._pace.step_s
        self._loop.call_at(self._next_s, self._step)
        now_s = time.time()
        finished = self._finish_step(now_s)
        self._seat_others(now_s)
        self._publish(now_s, finished)

    def _finish_step(self, now_s: float) -> tuple[StepRecord, ...]:
        """Everybody who was in the step gets a token."""
        step = self._under_way
        if step is None:
            return ()
        for seat in self._seats:
            if seat.arrival_s <= step.submit_s:
                self._give_token(seat)
        self._seats = [seat for seat in self._seats if seat.generated < seat.max_tokens]
        return (StepRecord(step.step, step.submit_s, now_s, now_s - step.submit_s, step.shape),)

    def _give_token(self, seat: _Seat) -> None:
        seat.generated += 1
        if seat.transport is None:
            return
        head = STREAM_HEAD if seat.generated == 1 else b""
        tail = END if seat.generated == seat.max_tokens else b""
        seat.transport.write(head + CHUNK + tail)

    def _seat_others(self, now_s: float) -> None:
        for _ in range(self._pace.others - sum(seat.transport is None for seat in self._seats)):
            name = f"chatcmpl-other-{self._source.getrandbits(32):08x}"
            tokens = self._source.randint(*OTHERS_TOKENS)
            self._seats.append(_Seat(name, now_s, OTHERS_PROMPT_TOKENS, tokens, None))

    def _publish(self, now_s: float, finished: tuple[StepRecord, ...]) -> None:
        state = self._state(now_s)
        if self._asked_for_all():
            self._feed = SimulatedFeed()
            message = msgspec.msgpack.encode(self._feed.snapshot(state))
        elif self._feed is not None:
            message = msgspec.msgpack.encode(self._feed.delta(state, finished))
        else:
            return
        self._socket.send(message, zmq.NOBLOCK)

    def _state(self, now_s: float) -> EngineState:
        running = tuple(seat.state() for seat in self._seats)
        shape = BatchShape.of((seat.in_flight_tokens, seat.computed_tokens) for seat in running)
        self._steps += 1
        self._under_way = InFlightStep(self._steps, now_s, shape)
        held = sum(-(-seat.computed_tokens // LIMITS.block_size) for seat in running)
        return EngineState(
            engine_id=self._name,
            step=self._steps,
            time_s=now_s,
            limits=LIMITS,
            running=running,
            free_blocks=LIMITS.total_blocks - held,
            in_flight=(self._under_way,),
        )

    def _asked_for_all(self) -> bool:
        """Whether a reader has come."""
        asked = False
        while self._socket.poll(0, zmq.POLLIN):
            asked = self._socket.recv()[:1] == b"\x01"
        return asked


class PacedConnection(asyncio.Protocol):
    """One connection of a router."""

    def __init__(self, engine: PacedEngine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._id = ""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self._parser.feed_data(data)

    def connection_lost(self, _: Exception | None) -> None:
        """It is closed."""
        self._engine.forget(self._transport)

    def on_header(self, name: bytes, value: bytes) -> None:
        """The request's id is among them."""
        if name.lower() == b"x-request-id":
            self._id = value.decode()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """A stream for whoever posts, else what it serves."""
        body = b"".join(self._body)
        self._body.clear()
        if self._parser.get_method() == b"POST":
            self._engine.admit(self._id, body, self._transport)
        else:
            self._transport.write(answer(MODELS))


def start(name: str, feed: str, pace: Pace) -> tuple[BaseProcess, str]:
    """One in a process of its own, and its URL. Terminate the process at the end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    process = get_context("spawn").Process(target=_serve, args=(listener, name, feed, pace), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()  # the process has its own copy
    return process, url


def _serve(listener: socket.socket, name: str, feed: str, pace: Pace) -> None:
    async def main() -> None:
        engine = PacedEngine(name, feed, pace)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: PacedConnection(engine), sock=listener, backlog=4096)
        await server.serve_forever()

    uvloop.run(main())
