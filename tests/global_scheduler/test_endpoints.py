"""Endpoints beside chat and completions: passed on untouched, weighed as far as they can be."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from block.errors import RequestError
from global_scheduler.endpoints import ENDPOINTS


async def test_embeddings_pass_and_are_no_generation(world, expected_whole):
    fleet = await world(instances=1, predictors=True, policy="block")
    body = {"model": "llama", "input": ["one", "two"], "unknown": 1}
    answer = await fleet.http.post(f"{fleet.url}/v1/embeddings", json=body)
    assert answer.content == expected_whole
    assert answer.headers["x-block-instance"] == "a"
    (question,) = fleet.predictors["a"].questions
    assert (question.candidate.output_tokens, question.candidate.max_tokens) == (1, 1)
    assert question.candidate.prompt_tokens > 4


async def test_responses_stream_and_are_weighed_by_their_own_limit(world, expected_stream):
    fleet = await world(instances=1, predictors=True, policy="block")
    body = {"model": "llama", "input": "word " * 40, "max_output_tokens": 99, "stream": True}
    answer = await fleet.http.post(f"{fleet.url}/v1/responses", json=body)
    assert answer.content == expected_stream
    (question,) = fleet.predictors["a"].questions
    assert question.candidate.max_tokens == 99
    assert 40 <= question.candidate.prompt_tokens <= 70


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings"])
async def test_the_session_is_the_user_of_any_endpoint_unless_the_header_names_one(world, path):
    fleet = await world(instances=4, policy="session")
    homes: dict[str, set[str]] = {}
    for number in range(12):
        for headers in ({}, {"x-block-session": '"of the header"'}):
            body = {"model": "llama", "input": "x", "user": f"user-{number % 6}"}
            answer = await fleet.http.post(f"{fleet.url}{path}", json=body, headers=headers)
            key = "header" if headers else body["user"]
            homes.setdefault(key, set()).add(answer.headers["x-block-instance"])
    assert {key: len(names) for key, names in homes.items()} == dict.fromkeys(homes, 1)
    assert len(set.union(*homes.values())) > 1


def test_a_conversations_priority_temperature_and_instructions_are_read():
    read = ENDPOINTS[b"/v1/responses"]
    fields = {"input": "x", "priority": -3, "temperature": 0.5, "instructions": "be brief", "tools": []}
    inquiry = read("id", json.dumps(fields).encode(), {})
    assert (inquiry.priority, inquiry.temperature) == (-3, 0.5)
    assert inquiry.tools_json == b'"be brief"[]'
    message = ENDPOINTS[b"/v1/messages"]("id", b'{"messages":[],"system":"be kind"}', {})
    assert message.tools_json == b'"be kind"'


async def test_a_form_with_a_file_passes_untouched_to_an_instance_with_its_model(world):
    fleet = await world()
    fleet.instances["a"].models = ["whisper"]
    fleet.instances["a"].healthy = False
    await fleet.until_healthy("b")
    fleet.instances["a"].healthy = True
    await fleet.until_healthy("a", "b")
    request = httpx.Request(
        "POST",
        f"{fleet.url}/v1/audio/transcriptions",
        data={"model": "whisper"},
        files={"file": ("a.wav", b"\x00\xff\r\n" * 500)},
    )
    request.read()
    for _ in range(3):
        answer = await fleet.http.send(request)
        assert (answer.json()["text"], answer.headers["x-block-instance"]) == ("heard", "a")
    assert fleet.instances["a"].received[0][1] == request.content


async def test_what_an_instance_keeps_to_itself_is_not_passed_on(world):
    fleet = await world(instances=1)
    for path in ("/v1/load_lora_adapter", "/v1/responses/resp_1/cancel", "/sleep", "/v1/chat/completions/"):
        assert (await fleet.http.post(f"{fleet.url}{path}", json={})).status_code == 404
    assert fleet.instances["a"].received == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model": 3}', b'{"model": "\xff"}'])
async def test_bad_bodies_are_refused(world, body):
    fleet = await world(instances=1)
    for path in ("/v1/embeddings", "/v1/responses"):
        answer = await fleet.http.post(f"{fleet.url}{path}", content=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_the_official_client_streams_tools_and_lists_models(world):
    fleet = await world()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

    def ask() -> tuple[list[str], list[str]]:
        with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="llama", messages=[{"role": "user", "content": "hi"}], tools=[tool], stream=True
            )
            return [chunk.id for chunk in stream], [model.id for model in client.models.list()]

    chunks, models = await asyncio.to_thread(ask)
    assert len(chunks) == 8
    assert models == ["llama"]


@given(st.sampled_from(sorted(ENDPOINTS)), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(path, body):
    with contextlib.suppress(RequestError):
        assert ENDPOINTS[path]("id", body, {}).body is body
