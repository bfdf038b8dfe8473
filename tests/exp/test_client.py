"""The load client against real HTTP servers whose tokens come at known times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from block.errors import ConfigError
from exp.client import LoadClient, LoadRun
from exp.outcome import Outcome
from exp.prompt import PromptWriter
from exp.target import Target
from exp.workload import TraceRequest, Workload

GAP_S = 0.05


class Streams:
    """Answers completions as vLLM does with continuous usage; two tokens to a message if the model is so."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.asked = asyncio.Event()
        self.url = ""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.asked.set()
        if body["model"] == "hangs":
            await asyncio.sleep(5.0)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        step = 2 if body["model"] == "pairs" else 1
        for done in range(step, body["max_tokens"] + 1, step):
            await asyncio.sleep(GAP_S)
            usage = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": done}
            event = {"choices": [{"index": 0, "text": ""}], "usage": usage}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest_asyncio.fixture
async def streams() -> AsyncIterator[Streams]:
    server = Streams()
    app = web.Application()
    app.router.add_post("/v1/completions", server.complete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


def workload(*arrivals_s: float, output_tokens: int = 5) -> Workload:
    return Workload("test", tuple(TraceRequest(at, 10, output_tokens) for at in arrivals_s))


async def chat(base_url: str, model: str, tokenizer: Path, load: Workload, **options: Any) -> list[Outcome]:
    client = LoadClient(Target.of(base_url, model, "chat"), PromptWriter(tokenizer))
    return list((await client.run(load, "least_request", **options)).outcomes)


async def complete(
    streams: Streams, tokenizer: Path, load: Workload, model: str = "m", timeout_s: float = 10.0
) -> LoadRun:
    client = LoadClient(Target.of(streams.url, model), PromptWriter(tokenizer), timeout_s)
    return await client.run(load)


async def test_a_request_is_measured_and_its_headers_are_read(fake_openai: Any, tokenizer_file: Path) -> None:
    _, outcome = await chat(fake_openai.base_url, "good", tokenizer_file, workload(0.0, 0.3))
    assert outcome.error == ""
    assert outcome.output_tokens == 5
    assert outcome.instance == "instance-1"
    assert outcome.predicted_e2e_s == 1.5
    assert outcome.decision_s == 0.0025
    assert outcome.ttft_s is not None
    assert outcome.e2e_s is not None
    assert outcome.tpot_s is not None
    # The server waits 20 ms before each token; the empty first chunk is no token.
    assert 0.02 <= outcome.ttft_s < 0.08
    assert 0.1 <= outcome.e2e_s < 0.4
    assert outcome.tpot_s == pytest.approx((outcome.e2e_s - outcome.ttft_s) / 4)
    assert len(outcome.itl_s) == 4


async def test_what_is_sent_carries_length_and_policy(fake_openai: Any, tokenizer_file: Path) -> None:
    await chat(fake_openai.base_url, "good", tokenizer_file, workload(0.0))
    [body], [headers] = fake_openai.bodies, fake_openai.headers
    assert body["stream"] is True
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (5, 5, True)
    assert len(body["messages"][0]["content"].split()) == 10
    assert headers["x-block-policy"] == "least_request"
    assert headers["x-block-output-tokens"] == "5"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("refuses", "HTTP status 429: .*too much"),
        ("breaks", "instance died"),
        ("cuts", "broke off"),
        ("short", "got 4 tokens, 5 were asked for"),
    ],
)
async def test_every_failure_is_recorded(
    fake_openai: Any, tokenizer_file: Path, model: str, said: str
) -> None:
    seen: list[Outcome] = []
    outcomes = await chat(
        fake_openai.base_url, model, tokenizer_file, workload(0.0, 0.0), on_done=seen.append
    )
    assert len(seen) == len(outcomes) == 2
    for outcome in outcomes:
        assert pytest.raises(AssertionError, match=said).matches(AssertionError(outcome.error))
        assert outcome.e2e_s is None


async def test_servers_that_are_not_there_or_never_end_are_recorded_failures(
    streams: Streams, tokenizer_file: Path
) -> None:
    [outcome] = await chat("http://127.0.0.1:9/v1", "good", tokenizer_file, workload(0.0))
    assert outcome.error.startswith("no connection")
    [outcome] = (await complete(streams, tokenizer_file, workload(0.0), "hangs", timeout_s=0.2)).outcomes
    assert outcome.error == "no end within 0.2 s"


async def test_each_token_has_its_time(streams: Streams, tokenizer_file: Path) -> None:
    [outcome] = (await complete(streams, tokenizer_file, workload(0.0, output_tokens=4))).outcomes
    assert outcome.error == ""
    assert outcome.prompt_tokens == 10
    assert len(outcome.token_s) == 4
    assert len(outcome.itl_s) == 3
    assert all(0.6 * GAP_S < gap < 3 * GAP_S for gap in outcome.itl_s)
    assert outcome.token_s[0] > 0.9 * GAP_S


async def test_tokens_of_one_message_share_its_time(streams: Streams, tokenizer_file: Path) -> None:
    run = await complete(streams, tokenizer_file, workload(0.0, output_tokens=4), "pairs")
    [outcome] = run.outcomes
    assert len(outcome.token_s) == 4
    assert len(set(outcome.token_s)) == 2
    assert len(outcome.itl_s) == 1


async def test_requests_leave_at_their_times_whatever_became_of_the_ones_before(
    streams: Streams, tokenizer_file: Path
) -> None:
    run = await complete(streams, tokenizer_file, workload(0.0, 0.1, 0.2, 0.3, output_tokens=20))
    assert [outcome.error for outcome in run.outcomes] == [""] * 4
    # Each takes a second, so all are under way before the first one ends.
    assert all(outcome.sent_s < 0.9 for outcome in run.outcomes)
    assert all(0.0 <= outcome.lateness_s < 0.1 for outcome in run.outcomes)


class SlowWriter(PromptWriter):
    """Takes its time over each prompt, and all of the event loop meanwhile."""

    def prompt_for(self, request: TraceRequest, seed: int) -> str:
        time.sleep(0.04)
        return super().prompt_for(request, seed)


async def test_clients_together_send_only_when_all_are_ready(streams: Streams, tokenizer_file: Path) -> None:
    together, load = asyncio.Barrier(3), workload(*(0.02 * index for index in range(5)), output_tokens=1)
    clients = [LoadClient(Target.of(streams.url, "m"), SlowWriter(tokenizer_file)) for _ in range(3)]
    runs = await asyncio.gather(*(client.run(load, together=together) for client in clients))
    # One after the other, the first would be hindered by the other two for 400 ms.
    assert max(run.pace.lateness_max_s for run in runs) < 0.15
    assert max(run.start_s for run in runs) - min(run.start_s for run in runs) < 0.05


async def test_a_client_that_is_the_bottleneck_says_so(streams: Streams, tokenizer_file: Path) -> None:
    async def hog() -> None:
        await streams.asked.wait()
        time.sleep(0.4)  # noqa: ASYNC251 - the loop is to be blocked

    hogging = asyncio.create_task(hog())
    run = await complete(streams, tokenizer_file, workload(0.0, 0.2, output_tokens=2))
    await hogging
    first, second = run.outcomes
    assert second.lateness_s > first.lateness_s + 0.1
    assert run.pace.lateness_max_s == second.lateness_s
    assert run.pace.lag_p99_s > 0.1
    assert "the client itself was the bottleneck" in run.pace.warning


async def test_prompts_that_share_blocks_begin_alike(streams: Streams, tokenizer_file: Path) -> None:
    requests = tuple(
        TraceRequest(0.0, tokens, 1, hashes) for tokens, hashes in ((700, (3, 4)), (600, (3, 5)))
    )
    await complete(streams, tokenizer_file, Workload("test", requests))
    first, second = sorted((body["prompt"].split() for body in streams.bodies), key=len, reverse=True)
    assert (len(first), len(second)) == (700, 600)
    assert first[:512] == second[:512]
    assert first[512:600] != second[512:]


async def test_recorded_text_is_sent_as_it_is(streams: Streams) -> None:
    client = LoadClient(Target.of(streams.url, "m"), None)
    await client.run(Workload("test", (TraceRequest(0.0, 2, 1, prompt="as recorded"),)))
    assert streams.bodies[0]["prompt"] == "as recorded"
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        await client.run(workload(0.0))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://:1/v1", "http://x:99999/v1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be http"):
        Target.of(url, "m")
