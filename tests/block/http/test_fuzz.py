"""Garbage, damaged and good requests over real connections: the server neither falls nor mixes them up."""

from __future__ import annotations

import asyncio
import re
from random import Random

import http_messages
import pytest
from http_service import serving
from raw_http import Echo, wire_to

from block.http.limits import Limits

LIMITS = Limits(max_head_bytes=4096, max_body_bytes=4096, head_s=0.2, idle_s=0.2, keep_alive_s=0.2)
CONNECTIONS = 400
AT_ONCE = 40
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")


def noise(source: Random) -> bytes:
    kind = source.random()
    if kind < 0.2:
        return bytes(source.randrange(256) for _ in range(source.randint(1, 500)))
    message = http_messages.request(source)
    return message if kind < 0.4 else http_messages.mutated(source, message)


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_comes_the_server_goes_on(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    source = Random(seed)
    echo = Echo(LIMITS)
    gate = asyncio.Semaphore(AT_ONCE)

    async def connection(url: str, number: int) -> None:
        data = b"".join(noise(source) for _ in range(source.randint(1, 4)))
        leaves = source.random() < 0.3
        async with gate, wire_to(url) as wire:
            try:
                for piece in http_messages.pieces(source, data):
                    await wire.send(piece)
                if leaves:
                    return
                answer = await wire.all(within_s=10)
            except ConnectionError:
                return
            assert answer == b"" or _HEAD.match(answer), number

    async with serving(echo) as url:
        await asyncio.gather(*(connection(url, number) for number in range(CONNECTIONS)))
        async with wire_to(url) as wire:
            await wire.send(b"GET /still-here HTTP/1.1\r\nHost: x\r\n\r\n")
            await wire.until(b"/still-here ")
    assert len(echo.requests) > CONNECTIONS / 10
    assert len(echo.errors) > CONNECTIONS / 10
    assert [record for record in caplog.records if record.exc_info] == []
