from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from exp.client import LoadClient, Outcome
from exp.prompt import PromptWriter
from exp.workload import TraceRequest, Workload


def workload(*arrivals_s: float, output_tokens: int = 5) -> Workload:
    return Workload("test", tuple(TraceRequest(at, 10, output_tokens) for at in arrivals_s))


async def send(base_url: str, model: str, tokenizer: Path, load: Workload, **options: Any) -> list[Outcome]:
    client = LoadClient(base_url, model, PromptWriter(tokenizer))
    try:
        return await client.run(load, "least_request", **options)
    finally:
        await client.close()


async def test_a_request_is_measured_and_its_headers_are_read(fake_openai: Any, tokenizer_file: Path) -> None:
    # The client library builds its parsers during its first request; the second one is measured.
    _, outcome = await send(fake_openai.base_url, "good", tokenizer_file, workload(0.0, 0.6))
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


async def test_what_is_sent_carries_length_and_policy(fake_openai: Any, tokenizer_file: Path) -> None:
    await send(fake_openai.base_url, "good", tokenizer_file, workload(0.0))
    [body], [headers] = fake_openai.bodies, fake_openai.headers
    assert body["stream"] is True
    assert body["max_tokens"] == 5
    assert body["ignore_eos"] is True
    assert len(body["messages"][0]["content"].split()) == 10
    assert headers["x-block-policy"] == "least_request"
    assert headers["x-block-output-tokens"] == "5"


async def test_requests_are_sent_at_their_times_whatever_became_of_others(
    fake_openai: Any, tokenizer_file: Path
) -> None:
    load = workload(0.0, 0.05, 0.1, output_tokens=20)
    began = asyncio.get_running_loop().time()
    outcomes = await send(fake_openai.base_url, "good", tokenizer_file, load)
    assert [outcome.error for outcome in outcomes] == ["", "", ""]
    # Each response takes 0.4 s: had they waited for each other, it would be 1.2 s.
    assert asyncio.get_running_loop().time() - began < 1.0
    assert all(0.0 <= outcome.lateness_s < 0.2 for outcome in outcomes)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("refuses", "too much"),
        ("breaks", "instance died"),
        ("cuts", "Error"),
        ("short", "got 4 tokens, 5 were asked for"),
    ],
)
async def test_every_failure_is_recorded(
    fake_openai: Any, tokenizer_file: Path, model: str, said: str
) -> None:
    seen: list[Outcome] = []
    outcomes = await send(
        fake_openai.base_url, model, tokenizer_file, workload(0.0, 0.0), on_done=seen.append
    )
    assert len(seen) == len(outcomes) == 2
    for outcome in outcomes:
        assert said in outcome.error
        assert outcome.e2e_s is None


async def test_a_server_that_is_not_there_is_a_recorded_failure(tokenizer_file: Path) -> None:
    [outcome] = await send("http://127.0.0.1:9/v1", "good", tokenizer_file, workload(0.0))
    assert outcome.error.startswith("APIConnectionError")
