"""Load on a router, by a client that costs little: closed loops over kept-alive connections."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import numpy as np

from exp.mock_engine import LAST_EVENT, MODEL, WHOLE

ANSWER_S = 60.0
"""Patience with one answer."""
_WORD = json.loads(WHOLE)["choices"][0]["message"]["content"]


def chat_request(prompt_bytes: int, *, stream: bool) -> bytes:
    """A chat request as it goes over the wire."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "word " * (prompt_bytes // 5)}]}
    text = json.dumps({**body, "max_tokens": 64, "stream": stream}).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
        b"accept: application/json\r\nauthorization: Bearer none\r\nuser-agent: bench\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(text), text)
    )


@dataclass(slots=True)
class Tally:
    """What became of the requests of one phase."""

    e2e_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    """To the first byte of a body."""
    errors: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    def e2e_ms(self, percentile: float) -> float:
        """A percentile of the whole time."""
        return float(np.percentile(self.e2e_s, percentile)) * 1000 if self.e2e_s else 0.0

    def ttft_ms(self, percentile: float) -> float:
        """A percentile of the time to the first byte."""
        return float(np.percentile(self.ttft_s, percentile)) * 1000 if self.ttft_s else 0.0


class Caller(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._done: asyncio.Future[str] | None = None
        self._parts: list[bytes] = []
        self.first_s = 0.0
        """When the answer's body began."""

    async def call(self, request: bytes) -> str:
        """Send, and wait for the answer's end; what is wrong with it, or nothing."""
        self._done = asyncio.get_running_loop().create_future()
        self._parts = []
        self.first_s = 0.0
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        """Done with it."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._settle(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._settle(f"connection lost: {exc}")

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        if not self.first_s:
            self.first_s = time.perf_counter()
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The answer's end."""
        status, body = self._parser.get_status_code(), b"".join(self._parts)
        if status != 200:
            self._settle(f"status {status}: {body[:200]!r}")
        elif not (body.endswith(LAST_EVENT) or body == WHOLE or _says_the_same(body)):
            self._settle(f"the answer ends with {body[-40:]!r}")
        else:
            self._settle("")

    def _settle(self, problem: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(problem)


def _says_the_same(body: bytes) -> bool:
    """As the mock's whole answer; some routers write answers anew."""
    try:
        return bool(json.loads(body)["choices"][0]["message"]["content"] == _WORD)
    except (ValueError, LookupError, TypeError):
        return False


async def load(url: str, request: bytes, *, requests: int, connections: int, pause_s: float = 0.0) -> Tally:
    """Send ``requests`` over ``connections``, each waiting ``pause_s`` between two."""
    tally = Tally()
    left = iter(range(requests))
    parts = urlsplit(url)

    async def loop_over(index: int) -> None:
        await asyncio.sleep(pause_s * index / connections)
        caller: Caller | None = None
        for _ in left:
            started_s = time.perf_counter()
            try:
                if caller is None:
                    _, caller = await asyncio.get_running_loop().create_connection(
                        Caller, parts.hostname or "", parts.port or 80
                    )
                problem = await asyncio.wait_for(caller.call(request), ANSWER_S)
            except (OSError, TimeoutError) as error:
                problem = str(error) or type(error).__name__
            ended_s = time.perf_counter()
            if problem or caller is None:
                tally.errors.append(problem)
                caller = None
            else:
                tally.e2e_s.append(ended_s - started_s)
                tally.ttft_s.append(caller.first_s - started_s)
            if pause_s:
                await asyncio.sleep(pause_s)
        if caller is not None:
            caller.close()

    began_s = time.perf_counter()
    await asyncio.gather(*(loop_over(index) for index in range(connections)))
    tally.wall_s = time.perf_counter() - began_s
    return tally
