"""Load whose every request is accounted for: answered, failed before or after its first byte, or lost.

Open loop: requests come by chance at a rate, each over a connection of its own, whatever becomes of the
others. Lost is what should never be: no end within the patience, or an end that says all is well when it
is not.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import httptools

PATIENCE_S = 20.0

Judge = Callable[[bytes, bool], bool]
"""Whether a body is right: as far as it goes (False), or in full (True)."""


class End(StrEnum):
    """How a request can end."""

    ANSWERED = "answered"
    FAILED_BEFORE = "failed_before"
    """Refused with an error, or cut off, before the first byte of its answer."""
    FAILED_AFTER = "failed_after"
    """Ended by an error event, or visibly cut off, later."""
    LOST = "lost"


@dataclass(slots=True)
class Outcome:
    """What became of one request. Times are monotonic."""

    id: str
    sent_s: float
    end: End = End.LOST
    why: str = ""
    instance: str = ""
    attempts: int = 1
    """Instances that the scheduler tried."""
    first_s: float | None = None
    ended_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        """To the first byte of the body; only if there was one."""
        assert self.first_s is not None
        return self.first_s - self.sent_s


@dataclass(frozen=True, slots=True)
class Source:
    """Where requests go, what they are, and what is a right answer."""

    port: int
    rate_per_s: float
    stream_share: float
    judges: Mapping[bool, Judge]
    """By whether a stream was asked for."""
    model: str
    max_tokens: int


@dataclass(slots=True)
class FailureLoad:
    """Runs until told to stop; ``outcomes`` has one entry per request sent."""

    source: Source
    seed: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    _calls: set[asyncio.Task[None]] = field(default_factory=set)

    async def run_for(self, seconds: float) -> None:
        """Send for so long; does not wait for the answers."""
        dice = random.Random(f"{self.seed}/{len(self.outcomes)}")
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        ends_s = next_s + seconds
        while (next_s := next_s + dice.expovariate(self.source.rate_per_s)) < ends_s:
            await asyncio.sleep(max(0.0, next_s - loop.time()))
            self.send(stream=dice.random() < self.source.stream_share)
        await asyncio.sleep(max(0.0, ends_s - loop.time()))

    async def settle(self) -> None:
        """Wait for the answers."""
        await asyncio.gather(*self._calls)

    def send(self, *, stream: bool) -> None:
        """One request, now."""
        outcome = Outcome(f"r{self.seed}-{len(self.outcomes)}", time.monotonic())
        self.outcomes.append(outcome)
        task = asyncio.create_task(_call(self.source, outcome, stream=stream))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


class _Call(asyncio.Protocol):
    """One request on one connection."""

    def __init__(self, outcome: Outcome, request: bytes) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.complete = False
        self.problem = ""
        self.body = bytearray()
        self._outcome = outcome
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._settle(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(f"connection lost: {exc or 'closed'}")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-block-instance":
            self._outcome.instance = value.decode()
        elif name.lower() == b"x-block-attempts":
            self._outcome.attempts = int(value)

    def on_body(self, body: bytes) -> None:
        if self._outcome.first_s is None:
            self._outcome.first_s = time.monotonic()
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True
        self._settle("")

    def _settle(self, problem: str) -> None:
        if not self.over.done():
            self.problem = problem
            self.over.set_result(None)


async def _call(source: Source, outcome: Outcome, *, stream: bool) -> None:
    call: _Call | None = None
    request = _request(source, outcome.id, stream=stream)
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, call = await asyncio.get_running_loop().create_connection(
                lambda: _Call(outcome, request), "127.0.0.1", source.port
            )
            await call.over
        outcome.end, outcome.why = _judge(call, source.judges[stream])
    except TimeoutError:
        outcome.why = "no end in sight"
    except OSError as error:
        outcome.end, outcome.why = End.FAILED_BEFORE, f"no connection: {error}"
    finally:
        outcome.ended_s = time.monotonic()
        if call is not None:
            call.transport.abort()


def _judge(call: _Call, judge: Judge) -> tuple[End, str]:
    """Where the answer ends, and if it says so."""
    body = bytes(call.body)
    if call.complete and call.status != 200:
        return End.FAILED_BEFORE, f"status {call.status}: {_message(body)}"
    if not body and not call.complete:
        return End.FAILED_BEFORE, call.problem
    events, _, last = body.rstrip(b"\n").rpartition(b"\n\n")
    if call.complete and judge(body, True):
        return End.ANSWERED, ""
    if call.complete and last.startswith(b'data: {"error"') and judge(events and events + b"\n\n", False):
        return End.FAILED_AFTER, _message(last.removeprefix(b"data: "))
    if not call.complete and judge(body, False):
        return End.FAILED_AFTER, call.problem
    return End.LOST, f"a wrong answer, which ends with {body[-60:]!r}"


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return repr(body[:80])


def _request(source: Source, id_: str, *, stream: bool) -> bytes:
    body = json.dumps(
        {
            "model": source.model,
            "messages": [{"role": "user", "content": "word " * 50}],
            "max_tokens": source.max_tokens,
            "stream": stream,
        }
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
        b"connection: close\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (id_.encode(), len(body), body)
    )
