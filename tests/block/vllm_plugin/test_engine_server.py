"""Whole vLLM servers: the emulated executor behind the OpenAI API, and vLLM's real forward pass."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from engine_server import LATENCY, EngineServer, emulated_server, running_server
from openai import AsyncOpenAI

from block.latency.table import TableLatency
from block.types import EngineState
from predictor.feed_reader import FeedReader

pytestmark = pytest.mark.engine


@dataclass(frozen=True)
class Answer:
    """One streamed completion."""

    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    text: str
    first_s: float
    total_s: float


async def ask(
    client: AsyncOpenAI, model: str, prompt: str, max_tokens: int, recorded: int | None = None
) -> Answer:
    body = {"vllm_xargs": {"block_output_tokens": recorded}} if recorded else None
    started_s = time.monotonic()
    stream = await client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=body,
    )
    text, first_s, reason, usage = "", 0.0, "", None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            first_s = first_s or time.monotonic() - started_s
            text, reason = text + choice.text, choice.finish_reason or reason
    assert usage is not None
    total_s = time.monotonic() - started_s
    return Answer(usage.prompt_tokens, usage.completion_tokens, reason, text, first_s, total_s)


@asynccontextmanager
async def session(server: EngineServer) -> AsyncIterator[tuple[AsyncOpenAI, list[EngineState]]]:
    """A client, and every state that the server's feed shows meanwhile."""
    states: list[EngineState] = []
    reader = FeedReader(server.feed, on_change=lambda: states.append(reader.mirror.state()))
    task = asyncio.create_task(reader.follow())
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        async with asyncio.timeout(20):
            while not reader.synchronised:  # noqa: ASYNC110 - what is waited for is in another process
                await asyncio.sleep(0.02)
        yield client, states
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_responses_have_their_lengths_and_the_feed_shows_them(vllm_server: EngineServer) -> None:
    plan = [(40, None), (60, 25), (10, 50), (30, 30), (1, None)]
    async with session(vllm_server) as (client, states):
        asked = (
            ask(client, vllm_server.model, f"{number} " * 30, most, recorded)
            for number, (most, recorded) in enumerate(plan)
        )
        answers = await asyncio.gather(*asked)
        await asyncio.sleep(1.0)
    assert [answer.output_tokens for answer in answers] == [40, 25, 10, 30, 1]
    assert [answer.finish_reason for answer in answers] == ["length", "stop", "length", "stop", "length"]
    assert answers[0].text.strip().isprintable()
    # The one of a single token may be done, on a busy machine, before the last one comes.
    assert max(len(state.running) for state in states) >= len(plan) - 1
    seen = {request.id: request for state in states for request in (*state.running, *state.waiting)}
    assert {r.prompt_tokens for r in seen.values()} == {answer.prompt_tokens for answer in answers}
    assert states[-1].running == states[-1].waiting == ()
    assert states[-1].free_blocks == states[-1].limits.total_blocks == 1051
    assert states[-1].limits.async_scheduling


async def test_steps_take_the_tables_time(vllm_server: EngineServer) -> None:
    table = TableLatency.load(LATENCY)
    async with session(vllm_server) as (client, states):
        prompts = [f"{number} tell me more about it " * 40 for number in range(16)]
        await asyncio.gather(*(ask(client, vllm_server.model, prompt, 60) for prompt in prompts))
        await asyncio.sleep(1.0)
    records = {record.step: record for state in states for record in state.recent_steps}.values()
    recent = [record for record in records if record.shape.requests > 8]
    ratios = [record.duration_s / table.seconds(record.shape) for record in recent]
    assert len(ratios) > 40
    assert any(record.shape.prefill_tokens for record in recent)
    # The medians judge the attribution; single steps may be late on a busy machine.
    assert median(ratios) == pytest.approx(1.0, abs=0.03)
    decodes = [r.duration_s / table.seconds(r.shape) for r in recent if not r.shape.prefill_tokens]
    assert median(decodes) == pytest.approx(1.0, abs=0.03)


async def test_a_disconnected_client_leaves_the_mirror(vllm_server: EngineServer) -> None:
    async with session(vllm_server) as (client, states):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ask(client, vllm_server.model, "long", 1500), timeout=1.0)
        assert len(states[-1].running) == 1
        async with asyncio.timeout(5):
            while states[-1].running:  # noqa: ASYNC110 - what is waited for is in another process
                await asyncio.sleep(0.02)


async def test_logprobs_and_grammars_are_well_formed(vllm_server: EngineServer) -> None:
    async with session(vllm_server) as (client, _):
        chat = await client.chat.completions.create(
            model=vllm_server.model,
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=5,
            logprobs=True,
            top_logprobs=2,
        )
        content = chat.choices[0].logprobs.content
        assert len(content) == 5
        assert all(len(token.top_logprobs) == 2 for token in content)
        choice = await client.completions.create(
            model=vllm_server.model,
            prompt="yes or no?",
            max_tokens=20,
            extra_body={"structured_outputs": {"choice": ["yes", "no"]}},
        )
        assert choice.choices[0].text in {"yes", "no"}


async def test_memory_pressure_preempts_and_loses_no_token(llama_model: Path) -> None:
    tight = {"num_gpu_blocks_override": "40", "max_model_len": "512", "max_num_seqs": "8"}
    with emulated_server(llama_model, **tight, enable_prefix_caching="") as server:
        async with session(server) as (client, states):
            asked = (ask(client, server.model, f"{number} words " * 20, 120) for number in range(10))
            answers = await asyncio.gather(*asked)
            await asyncio.sleep(1.0)
    assert [answer.output_tokens for answer in answers] == [120] * 10
    assert states[-1].preemptions > 0
    assert states[-1].free_blocks == states[-1].limits.total_blocks == 39


async def test_the_feed_beside_vllms_real_forward_pass(tiny_model: Path) -> None:
    flags = {
        # The smallest block that vLLM's CPU attention takes.
        "--block-size": "32",
        "--num-gpu-blocks-override": "200",
        "--scheduler-cls": "block.vllm_plugin.scheduler.FeedScheduler",
    }
    with running_server(tiny_model, {}, flags) as server:
        async with session(server) as (client, states):
            asked = (ask(client, server.model, f"{number} words " * 10, 30) for number in range(6))
            answers = await asyncio.gather(*asked)
            await asyncio.sleep(1.0)
    assert all(1 <= answer.output_tokens <= 30 for answer in answers)
    assert max(len(state.running) for state in states) > 1
    durations = [record.duration_s for record in states[-1].recent_steps]
    assert all(0 < duration_s < 10 for duration_s in durations)
    assert states[-1].running == ()
