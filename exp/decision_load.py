"""Open-loop load on decisions: requests of realistic sizes at random times, each read to its end."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from exp.mock_engine import MODEL
from exp.paced_engine import BYTES_PER_TOKEN
from exp.router_load import ANSWER_S, Caller

PROMPT_MEDIAN_LOG, PROMPT_SIGMA_LOG = 3.9, 1.5
"""Log-normal prompt tokens: median 49, mean 150, one in a hundred above 1,600; cut at the next."""
MOST_PROMPT_TOKENS = 3000


@dataclass(frozen=True, slots=True)
class DecisionLoad:
    """What is sent."""

    rate_per_s: float
    output_tokens: int
    """Mean of the response lengths; they are even between a quarter of it and seven."""
    seed: int = 0

    def requests(self, seconds: float) -> Iterator[tuple[float, bytes]]:
        """Times since the start, never falling, and requests as they go over the wire."""
        source = random.Random(self.seed)
        at_s = source.expovariate(self.rate_per_s)
        while at_s < seconds:
            yield at_s, self._request(source)
            at_s += source.expovariate(self.rate_per_s)

    def _request(self, source: random.Random) -> bytes:
        tokens = min(source.lognormvariate(PROMPT_MEDIAN_LOG, PROMPT_SIGMA_LOG), MOST_PROMPT_TOKENS)
        words = [f"{source.getrandbits(24):06x}" for _ in range(int(tokens * BYTES_PER_TOKEN) // 7 + 1)]
        quarter = max(1, self.output_tokens // 4)
        fields = {
            "model": MODEL,
            "messages": [{"role": "user", "content": " ".join(words)}],
            "max_tokens": source.randint(quarter, max(quarter, 2 * self.output_tokens - quarter)),
            "stream": True,
        }
        body = json.dumps(fields).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
            b"accept: application/json\r\nauthorization: Bearer none\r\nuser-agent: bench\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )


@dataclass(slots=True)
class Decisions:
    """What became of them."""

    took_ms: list[float] = field(default_factory=list)
    """As the answers' headers say."""
    unpredicted: int = 0
    """Chosen by a fallback."""
    errors: list[str] = field(default_factory=list)
    latest_s: float = 0.0
    """How late the latest was sent."""


class _Asking(Caller):
    """Notes what the router says of its decision."""

    def __init__(self) -> None:
        super().__init__()
        self.named: dict[bytes, bytes] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.startswith(b"x-block-"):
            self.named[name] = value


async def send_decisions(url: str, load: DecisionLoad, seconds: float, warm_s: float) -> Decisions:
    """Load the router for ``warm_s`` and then ``seconds``; only decisions of the latter are kept."""
    sender = _Sender(url)
    begun_s = time.perf_counter()
    tasks = []
    for at_s, request in load.requests(warm_s + seconds):
        await asyncio.sleep(max(0.0, begun_s + at_s - time.perf_counter()))
        kept = at_s >= warm_s
        if kept:
            late_s = time.perf_counter() - begun_s - at_s
            sender.decisions.latest_s = max(sender.decisions.latest_s, late_s)
        tasks.append(asyncio.create_task(sender.send(request, kept=kept)))
    await asyncio.gather(*tasks)
    sender.close()
    return sender.decisions


class _Sender:
    """Connections that are kept, as many as are needed at once."""

    def __init__(self, url: str) -> None:
        self.decisions = Decisions()
        self._parts = urlsplit(url)
        self._idle: list[_Asking] = []

    async def send(self, request: bytes, *, kept: bool) -> None:
        try:
            caller = self._idle.pop() if self._idle else await self._connect()
            caller.named.clear()
            problem = await asyncio.wait_for(caller.call(request), ANSWER_S)
        except (OSError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
        if problem:
            self.decisions.errors.append(problem)
            return
        self._idle.append(caller)
        if kept:
            self.decisions.took_ms.append(float(caller.named[b"x-block-decision-ms"]))
            self.decisions.unpredicted += b"x-block-fallback" in caller.named

    def close(self) -> None:
        for caller in self._idle:
            caller.close()

    async def _connect(self) -> _Asking:
        _, caller = await asyncio.get_running_loop().create_connection(
            _Asking, self._parts.hostname or "", self._parts.port or 80
        )
        return caller
