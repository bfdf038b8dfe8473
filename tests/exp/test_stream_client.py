"""The light client against a real HTTP server whose tokens come at known times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from aiohttp import web

from exp.run_log import RequestLog
from exp.stream_client import StreamClient, Target
from exp.workload import TraceRequest, Workload

GAP_S = 0.05


class Streams:
    """Answers completions as vLLM does with continuous usage; prompts of one word count as their length."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.arrived_s: list[float] = []
        self.port = 0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.arrived_s.append(time.monotonic())
        body = await request.json()
        self.bodies.append(body)
        if body["prompt"] == "refuse":
            return web.json_response({"error": "no"}, status=400)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for index in range(body["max_tokens"]):
            await asyncio.sleep(GAP_S)
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": index + 1}
            await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest_asyncio.fixture
async def streams() -> AsyncIterator[Streams]:
    server = Streams()
    app = web.Application()
    app.router.add_post("/v1/completions", server.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


async def send(streams: Streams, requests: list[TraceRequest], prompts: list[str]) -> list[RequestLog]:
    client = StreamClient(Target("127.0.0.1", streams.port, "m"), timeout_s=10.0)
    _, logs = await client.run(Workload("test", tuple(requests)), prompts)
    return logs


async def test_each_token_has_its_time(streams: Streams) -> None:
    (log,) = await send(streams, [TraceRequest(0.0, 3, 4)], ["abc"])
    assert log.error == ""
    gaps = [b - a for a, b in zip(log.token_s, log.token_s[1:], strict=False)]
    assert len(gaps) == 3
    assert all(0.6 * GAP_S < gap < 3 * GAP_S for gap in gaps)
    assert log.token_s[0] - log.sent_s > 0.9 * GAP_S
    assert streams.bodies[0]["ignore_eos"] is True
    assert streams.bodies[0]["max_tokens"] == 4


async def test_requests_leave_at_their_times_whatever_became_of_the_ones_before(streams: Streams) -> None:
    requests = [TraceRequest(0.1 * index, 3, 20) for index in range(4)]
    logs = await send(streams, requests, ["abc"] * 4)
    assert [log.due_s for log in logs] == [0.0, 0.1, 0.2, 0.30000000000000004]
    # Each takes a second, so all are under way before the first one ends.
    assert all(log.sent_s < logs[0].token_s[-1] for log in logs)
    assert all(0.0 <= log.sent_s - log.due_s < 0.1 for log in logs)


async def test_the_clients_own_lateness_is_measured(streams: Streams) -> None:
    async def hog() -> None:
        await asyncio.sleep(0.1)
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is to be blocked

    hogging = asyncio.create_task(hog())
    logs = await send(streams, [TraceRequest(0.0, 3, 1), TraceRequest(0.2, 3, 1)], ["abc"] * 2)
    await hogging
    assert logs[0].sent_s - logs[0].due_s < 0.05
    assert 0.1 < logs[1].sent_s - logs[1].due_s < 0.4


async def test_refusals_wrong_lengths_and_missing_servers_are_errors(streams: Streams) -> None:
    requests = [TraceRequest(0.0, 6, 1), TraceRequest(0.0, 9, 1)]
    refused, wrong = await send(streams, requests, ["refuse", "abc"])
    assert "HTTP status 400" in refused.error
    assert wrong.error == "3 + 1 tokens, not 9 + 1 as asked"
    streams.port = 1
    (missing,) = await send(streams, [TraceRequest(0.0, 3, 1)], ["abc"])
    assert missing.error.startswith("no connection")
