"""A mock vLLM server that costs next to nothing, so that what stands before it can be measured.

Answers POSTs with fixed bytes, at once or as a stream of events; a stream gets its first event at once
and one at every tick, all streams at the same tick, as an engine's steps give every running request its
token. It also answers the probes of the block policy, always the same.
"""

from __future__ import annotations

import asyncio
import socket
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import cast

import httptools
import msgspec
import uvloop

from block.messages import PredictResponse
from block.types import EngineLoad, Prediction, PredictionSpread

MODEL = "mock"
_DELTA = b'{"index":0,"delta":{"content":" word"}}'
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[%b]}\n\n' % _DELTA
LAST_EVENT = b"data: [DONE]\n\n"
WHOLE = b'{"id":"chatcmpl-1","choices":[{"index":0,"message":{"role":"assistant","content":"word"}}]}'
MODELS = b'{"object":"list","data":[{"id":"%b","object":"model","max_model_len":131072}]}' % MODEL.encode()
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST_EVENT), LAST_EVENT)


def answer(body: bytes) -> bytes:
    """A whole answer as it goes over the wire."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class MockEngine:
    """One instance: its streams, and when each has ended."""

    def __init__(self, name: str, chunks: int, tick_s: float) -> None:
        """``chunks``: events of a stream, before its last."""
        self.whole = answer(WHOLE)
        self.models = answer(MODELS)
        self.prediction = answer(_prediction(name))
        self._chunks = chunks
        self._tick_s = tick_s
        self._left: dict[asyncio.Transport, int] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.call_later(tick_s, self._tick)

    def stream_to(self, transport: asyncio.Transport) -> None:
        """Begin a stream: the first event comes at once, the others follow."""
        transport.write(STREAM_HEAD + CHUNK)
        self._left[transport] = self._chunks - 1

    def forget(self, transport: asyncio.Transport) -> None:
        """The other side has gone."""
        self._left.pop(transport, None)

    def _tick(self) -> None:
        self._loop.call_later(self._tick_s, self._tick)
        for transport, left in tuple(self._left.items()):
            if left:
                transport.write(CHUNK)
                self._left[transport] = left - 1
            else:
                transport.write(END)
                del self._left[transport]


class MockConnection(asyncio.Protocol):
    """One connection of a router."""

    def __init__(self, engine: MockEngine) -> None:
        self._engine = engine
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._url = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:  # such as a router that tries HTTP/2 first
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """It is closed."""
        self._engine.forget(self._transport)

    def on_url(self, url: bytes) -> None:
        """The request's target."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer it."""
        url, body = self._url, b"".join(self._body)
        self._url = b""
        self._body.clear()
        if url == b"/v1/predict":
            self._transport.write(self._engine.prediction)
        elif b'"stream":true' in body or b'"stream": true' in body:
            self._engine.stream_to(self._transport)
        else:
            whole = self._parser.get_method() == b"POST"
            self._transport.write(self._engine.whole if whole else self._engine.models)


def start(name: str, chunks: int, tick_s: float) -> tuple[BaseProcess, str]:
    """A mock in a process of its own, and its address. Terminate the process at the end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    process = get_context("spawn").Process(target=_serve, args=(listener, name, chunks, tick_s), daemon=True)
    process.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()  # the process has its own copy
    return process, address


def _serve(listener: socket.socket, name: str, chunks: int, tick_s: float) -> None:
    async def main() -> None:
        engine = MockEngine(name, chunks, tick_s)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: MockConnection(engine), sock=listener, backlog=4096)
        await server.serve_forever()

    uvloop.run(main())


def _prediction(name: str) -> bytes:
    prediction = Prediction(0.1, 1.0, 0.01, 0.0, 0.0, 0, 0.001, "mock@0", 1.0)
    spread = PredictionSpread(1, 0.0, prediction.ttft_s, 0.0, prediction.e2e_s)
    return msgspec.json.encode(
        PredictResponse(name, prediction, spread, EngineLoad(1, 0, 0, 100, 200, 0, 50), 7)
    )
