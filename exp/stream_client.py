"""An open-loop client that costs little: one process, plain sockets, the time of every token.

While a run goes on it only notes when bytes came; what they said is read afterwards. Each request has a
connection of its own. Knows nothing of how the server was started.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from exp.run_log import RequestLog
from exp.stream_reply import read_reply
from exp.workload import TraceRequest, Workload


@dataclass(frozen=True, slots=True)
class Target:
    """The server and the model that it is asked for."""

    host: str
    port: int
    model: str
    """As the server calls it."""


@dataclass(slots=True)
class _Conversation(asyncio.Protocol):
    """One request and the pieces of its answer as they came."""

    payload: bytes
    closed: asyncio.Future[None]
    sent_s: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.sent_s = time.monotonic()
        transport.write(self.payload)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic(), data))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it by name
        if not self.closed.done():
            self.closed.set_result(None)


class StreamClient:
    """Sends workloads to one OpenAI server, each request at its time, whatever became of the others."""

    def __init__(self, target: Target, timeout_s: float = 120.0) -> None:
        self._target = target
        self._timeout_s = timeout_s

    async def run(
        self, workload: Workload, prompts: list[str], on_done: Callable[[], None] | None = None
    ) -> tuple[float, list[RequestLog]]:
        """The run's start on the monotonic clock, and what became of each request, in the same order."""
        payloads = [
            self._payload(request, prompt) for request, prompt in zip(workload.requests, prompts, strict=True)
        ]
        # A collection in the middle of a run would show as lateness.
        gc.collect()
        gc.disable()
        try:
            start_s = time.monotonic() + 0.05
            logs = await asyncio.gather(
                *(
                    self._send(start_s, request, payload, on_done)
                    for request, payload in zip(workload.requests, payloads, strict=True)
                )
            )
        finally:
            gc.enable()
        return start_s, list(logs)

    async def _send(
        self, start_s: float, request: TraceRequest, payload: bytes, on_done: Callable[[], None] | None
    ) -> RequestLog:
        due_s = start_s + request.arrival_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        loop = asyncio.get_running_loop()
        talk, error = _Conversation(payload, loop.create_future()), ""
        try:
            transport, _ = await loop.create_connection(lambda: talk, self._target.host, self._target.port)
        except OSError as failure:
            error = f"no connection: {failure}"
        else:
            try:
                await asyncio.wait_for(talk.closed, self._timeout_s)
            except TimeoutError:
                error = f"no end within {self._timeout_s:g} s"
            finally:
                transport.abort()
        if on_done is not None:
            on_done()
        return _log(request, talk, start_s, error)

    def _payload(self, request: TraceRequest, prompt: str) -> bytes:
        body = json.dumps(
            {
                "model": self._target.model,
                "prompt": prompt,
                "max_tokens": request.output_tokens,
                "ignore_eos": True,
                "temperature": 0.0,
                "stream": True,
                # How many tokens a message holds is not told otherwise.
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {self._target.host}:{self._target.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


def _log(request: TraceRequest, talk: _Conversation, start_s: float, error: str) -> RequestLog:
    reply = read_reply(talk.pieces)
    tokens = tuple(time_s - start_s for time_s in reply.token_s)
    error = error or reply.error
    if not error and (reply.prompt_tokens, len(tokens)) != (request.prompt_tokens, request.output_tokens):
        error = (
            f"{reply.prompt_tokens} + {len(tokens)} tokens,"
            f" not {request.prompt_tokens} + {request.output_tokens} as asked"
        )
    sent_s = (talk.sent_s or time.monotonic()) - start_s
    return RequestLog(request.arrival_s, sent_s, request.prompt_tokens, request.output_tokens, tokens, error)
