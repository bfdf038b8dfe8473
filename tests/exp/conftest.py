"""A small OpenAI server that streams as vLLM does (what it does is told by the model's name), a tokenizer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web


class FakeOpenAI:
    """Remembers the requests it got."""

    base_url = ""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.app = web.Application()
        self.app.router.add_post("/v1/chat/completions", self.chat)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if body["model"] == "refuses":
            return web.json_response({"error": {"message": "too much", "type": "x", "code": 429}}, status=429)
        response = web.StreamResponse(headers=RESPONSE_HEADERS)
        await response.prepare(request)
        assert request.transport is not None
        await stream(response, body, request.transport)
        return response


RESPONSE_HEADERS = {
    "content-type": "text/event-stream",
    "x-block-instance": "instance-1",
    "x-block-predicted-e2e-ms": "1500.0",
    "x-block-decision-ms": "2.5",
}


async def stream(response: web.StreamResponse, body: dict[str, Any], transport: asyncio.Transport) -> None:
    count = body["max_tokens"]
    await send(response, choice={"role": "assistant", "content": ""})
    for index in range(count):
        await asyncio.sleep(0.02)
        if index == 2 and body["model"] == "breaks":
            await response.write(b'data: {"error": {"message": "instance died", "code": 502}}\n\n')
            return
        if index == 2 and body["model"] == "cuts":
            transport.abort()
            return
        await send(response, choice={"content": " word"})
    told = count - 1 if body["model"] == "short" else count
    usage = {"prompt_tokens": 1, "completion_tokens": told, "total_tokens": told + 1}
    await send(response, usage=usage)
    await response.write(b"data: [DONE]\n\n")


async def send(
    response: web.StreamResponse, choice: dict[str, Any] | None = None, usage: dict[str, int] | None = None
) -> None:
    choices = [] if choice is None else [{"index": 0, "delta": choice, "finish_reason": None}]
    chunk = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
        "usage": usage,
    }
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


@pytest_asyncio.fixture
async def fake_openai() -> AsyncIterator[FakeOpenAI]:
    server = FakeOpenAI()
    runner = web.AppRunner(server.app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer with a few hundred whole words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    letters = "abcdefghij"
    words = [a + b + c for a in letters for b in letters for c in letters]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path
