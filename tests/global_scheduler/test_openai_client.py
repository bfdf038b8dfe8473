"""The official client, synchronous and asynchronous, against every kind of answer that it knows."""

from __future__ import annotations

import asyncio

import openai
import pytest

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def client_of(fleet) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0)


def async_client_of(fleet) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0)


async def test_tools_come_back_as_calls(world):
    fleet = await world()
    async with async_client_of(fleet) as client:
        answer = await client.chat.completions.create(model="llama", messages=HI, tools=[TOOL])
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("f", "{}")


async def test_completions_stream_synchronously(world):
    fleet = await world()

    def ask() -> int:
        with client_of(fleet) as client:
            stream = client.completions.create(model="llama", prompt="hi", stream=True)
            return len(list(stream))

    assert await asyncio.to_thread(ask) == 8


async def test_embeddings_are_read(world):
    fleet = await world()
    fleet.instances["a"].behaviour = fleet.instances["b"].behaviour = "embed"
    async with async_client_of(fleet) as client:
        plain = await client.embeddings.create(model="llama", input=["x", "y"], encoding_format="float")
        packed = await client.embeddings.create(model="llama", input=["x", "y"])
    assert [one.embedding for one in plain.data] == [[0.0, 0.5], [1.0, 0.5]]
    assert [one.embedding for one in packed.data] == [one.embedding for one in plain.data]


async def test_responses_are_read_whole_and_as_a_stream_of_named_events(world):
    fleet = await world()
    fleet.instances["a"].behaviour = fleet.instances["b"].behaviour = "respond"
    async with async_client_of(fleet) as client:
        answer = await client.responses.create(model="llama", input="hi")
        stream = await client.responses.create(model="llama", input="hi", stream=True)
        kinds = [event.type async for event in stream]
    assert answer.output_text == "a response"
    assert kinds == ["response.created", "response.output_text.delta", "response.completed"]


async def test_headers_say_what_a_request_wants_and_what_became_of_it(world):
    fleet = await world(predictors=True, policy="block", estimator="oracle")
    wishes = {
        "x-block-policy": "min_latency",
        "x-block-output-tokens": "77",
        "x-block-slo-ttft-ms": "500",
        "x-block-slo-e2e-ms": "9000",
    }
    async with async_client_of(fleet) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="llama", messages=HI, extra_headers=wishes
        )
    assert raw.headers["x-block-policy"] == "min_latency"
    told = ("instance", "predicted-ttft-ms", "predicted-e2e-ms", "decision-ms", "overhead-ms")
    assert all(raw.headers[f"x-block-{name}"] for name in told)
    asked = [
        question.candidate.output_tokens for one in fleet.predictors.values() for question in one.questions
    ]
    assert asked == [77, 77]
    assert raw.parse().choices[0].finish_reason == "tool_calls"


async def test_models_of_several_kinds_and_adapters_are_listed_and_routed(world):
    fleet = await world(instances=3)
    served = {"a": ["llama", "sql-lora"], "b": ["llama"], "c": ["org/qwen"]}
    for name, models in served.items():
        fleet.instances[name].models = models
        fleet.instances[name].healthy = False
    await fleet.until_healthy()
    for instance in fleet.instances.values():
        instance.healthy = True
    await fleet.until_healthy(*served)
    async with async_client_of(fleet) as client:
        assert [model.id async for model in client.models.list()] == ["llama", "sql-lora", "org/qwen"]
        assert (await client.models.retrieve("org/qwen")).id == "org/qwen"
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.models.retrieve("gpt-4")
        for model, allowed in (("sql-lora", {"a"}), ("org/qwen", {"c"}), ("llama", {"a", "b"})):
            answers = [
                await client.chat.completions.with_raw_response.create(model=model, messages=HI)
                for _ in range(4)
            ]
            assert {answer.headers["x-block-instance"] for answer in answers} == allowed


async def test_errors_are_the_clients_own_kinds(world):
    fleet = await world(instances=1)
    async with async_client_of(fleet) as client:
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.chat.completions.create(model="gpt-4", messages=HI)
        assert unknown.value.code == "model_not_found"
        fleet.instances["a"].behaviour = "refuse"
        with pytest.raises(openai.BadRequestError, match="the instance says no"):
            await client.chat.completions.create(model="llama", messages=HI)
        fleet.instances["a"].behaviour = "die_first"
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="llama", messages=HI)
        assert failed.value.code == "instance_failed"
