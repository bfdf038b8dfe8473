"""An open-loop load client: sends each request at its time, whatever became of the ones before.

It costs little, so that one process carries thousands of streams: while a request goes on only the times
are noted at which bytes came, and what they said is read when it has ended. Each request has a connection
of its own. How late the client itself was is measured beside everything else. Knows nothing of how the
servers were started.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from block.errors import ConfigError
from exp.outcome import Outcome
from exp.own_pace import OwnPace
from exp.prompt import PromptWriter
from exp.stream_reply import read_reply
from exp.target import Target
from exp.workload import TraceRequest, Workload

OnDone = Callable[[Outcome], None]

_REQUEST_TIMEOUT_S = 600.0
_LEAD_S = 0.05
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What became of a workload."""

    outcomes: tuple[Outcome, ...]
    """In the workload's order."""
    start_s: float
    """The workload's zero on the machine's monotonic clock."""
    wall_s: float
    """From there to the last answer's end."""
    pace: OwnPace
    """Whether the client kept up."""


class LoadClient:
    """Sends workloads to one OpenAI server."""

    def __init__(
        self, target: Target, writer: PromptWriter | None, timeout_s: float = _REQUEST_TIMEOUT_S
    ) -> None:
        """``writer`` makes the prompts of workloads that have no text."""
        self._target = target
        self._writer = writer
        self._timeout_s = timeout_s
        self._ssl = target.ssl_context

    async def run(
        self,
        workload: Workload,
        policy: str = "",
        on_done: OnDone | None = None,
        together: asyncio.Barrier | None = None,
    ) -> LoadRun:
        """Send every request at its arrival time; one that fails has its error in its outcome.

        ``policy`` is asked of a router by header; empty leaves it to the server. At ``together`` the clients
        of one process wait for one another before their clocks begin: none prepares while another sends.
        """
        headers = {"x-block-policy": policy} if policy else {}
        payloads = [self._payload(index, r, headers) for index, r in enumerate(workload.requests)]
        address = await self._resolved()
        pace = OwnPace()
        with _uncollected():
            if together is not None:
                await together.wait()
            start_s = time.monotonic() + _LEAD_S
            async with pace.watched():
                outcomes = await self._send_all(start_s, workload, payloads, address, policy, on_done)
            wall_s = time.monotonic() - start_s
        pace.note_lateness([outcome.lateness_s for outcome in outcomes])
        return LoadRun(tuple(outcomes), start_s, wall_s, pace)

    async def _send_all(
        self,
        start_s: float,
        workload: Workload,
        payloads: Sequence[bytes],
        address: str,
        policy: str,
        on_done: OnDone | None,
    ) -> list[Outcome]:
        outcomes = [Outcome(request, policy) for request in workload.requests]
        tasks: list[asyncio.Task[None]] = []
        try:
            for outcome, payload in zip(outcomes, payloads, strict=True):
                wait_s = start_s + outcome.request.arrival_s - time.monotonic()
                if wait_s > 0 or not len(tasks) % 16:
                    await asyncio.sleep(max(0.0, wait_s))
                tasks.append(asyncio.create_task(self._send(start_s, outcome, payload, address, on_done)))
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return outcomes

    async def _send(
        self, start_s: float, outcome: Outcome, payload: bytes, address: str, on_done: OnDone | None
    ) -> None:
        loop = asyncio.get_running_loop()
        talk, error = _Conversation(payload, loop.create_future()), ""
        server_name = self._target.host if self._ssl else None
        try:
            async with asyncio.timeout(self._timeout_s):
                transport, _ = await loop.create_connection(
                    lambda: talk, address, self._target.port, ssl=self._ssl, server_hostname=server_name
                )
                try:
                    await talk.closed
                finally:
                    transport.abort()
        except TimeoutError:
            error = f"no end within {self._timeout_s:g} s"
        except OSError as failure:
            error = f"no connection: {failure}"
        _fill_in(outcome, talk, start_s, error)
        if on_done is not None:
            on_done(outcome)

    def _payload(self, index: int, request: TraceRequest, headers: Mapping[str, str]) -> bytes:
        if not request.prompt and self._writer is None:
            raise ConfigError("the workload has no texts; give a tokenizer.json to write prompts with")
        prompt = request.prompt or (self._writer.prompt_for(request, index) if self._writer else "")
        return self._target.payload(prompt, request.output_tokens, headers)

    async def _resolved(self) -> str:
        """The server's address, looked up once."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._target.host, self._target.port, type=1)
        except OSError as error:
            raise ConfigError(f"host {self._target.host!r}: not found ({error}); check the URL") from error
        return str(found[0][4][0])


@dataclass(slots=True)
class _Conversation(asyncio.Protocol):
    """One request and the pieces of its answer as they came."""

    payload: bytes
    closed: asyncio.Future[None]
    sent_s: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sent_s = time.monotonic()
        cast("asyncio.Transport", transport).write(self.payload)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic(), data))
        if data.endswith(_LAST_CHUNK):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it by name
        self._end()

    def _end(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


@contextmanager
def _uncollected() -> Iterator[None]:
    """A collection in the middle of a run would show as lateness."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _fill_in(outcome: Outcome, talk: _Conversation, start_s: float, error: str) -> None:
    reply = read_reply(talk.pieces)
    talk.pieces.clear()
    sent_s = talk.sent_s or time.monotonic()
    outcome.sent_s = sent_s - start_s
    outcome.lateness_s = outcome.sent_s - outcome.request.arrival_s
    _read_headers(outcome, reply.headers)
    outcome.error = error or reply.error
    if reply.token_s:
        outcome.token_s = tuple(at_s - sent_s for at_s in reply.token_s)
        outcome.itl_s = tuple(b - a for a, b in zip(reply.message_s, reply.message_s[1:], strict=False))
        outcome.ttft_s = outcome.token_s[0]
    outcome.prompt_tokens, outcome.output_tokens = reply.prompt_tokens, reply.output_tokens
    wanted = outcome.request.output_tokens
    if not outcome.error and (reply.output_tokens != wanted or not reply.token_s):
        outcome.error = f"got {reply.output_tokens} tokens, {wanted} were asked for"
    if not outcome.error:
        outcome.e2e_s = outcome.token_s[-1]


def _read_headers(outcome: Outcome, headers: Mapping[str, str]) -> None:
    outcome.instance = headers.get("x-block-instance")
    outcome.fallback = headers.get("x-block-fallback")
    outcome.predicted_ttft_s = _seconds(headers.get("x-block-predicted-ttft-ms"))
    outcome.predicted_e2e_s = _seconds(headers.get("x-block-predicted-e2e-ms"))
    outcome.decision_s = _seconds(headers.get("x-block-decision-ms"))


def _seconds(milliseconds: str | None) -> float | None:
    return None if milliseconds is None else float(milliseconds) / 1e3
