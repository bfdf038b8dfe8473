"""Malformed input: a 4xx in OpenAI's shape, nothing hangs, nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from block.errors import RequestError
from global_scheduler.inquiry import read_inquiry

CHAT = b'"model": "llama", "messages": [{"role": "user", "content": "x"}]'
BAD_BODIES = {
    "empty": (b"", None),
    "not JSON": (b"hello", None),
    "cut short": (b'{"model": "llama"', None),
    "two documents": (b"{%s}{}" % CHAT, None),
    "a list": (b"[1, 2]", None),
    "null": (b"null", None),
    "NaN": (b'{%s, "x": NaN}' % CHAT, None),
    "broken UTF-8 in the prompt": (b'{"messages": [{"content": "\xff"}]}', None),
    "broken UTF-8 elsewhere": (b'{%s, "x": "\xc3"}' % CHAT, None),
    "nested beyond reason": (b'{%s, "x": %s}' % (CHAT, b"[" * 100_000 + b"]" * 100_000), None),
    "model of a wrong type": (b'{"model": 3, "messages": []}', "model"),
    "no messages": (b'{"model": "llama"}', "messages"),
    "messages of a wrong type": (b'{"model": "llama", "messages": "hi"}', "messages"),
    "negative max_tokens": (b'{%s, "max_tokens": -1}' % CHAT, "max_tokens"),
    "zero max_tokens": (b'{%s, "max_tokens": 0}' % CHAT, "max_tokens"),
    "huge max_tokens": (b'{%s, "max_tokens": 1%s}' % (CHAT, b"0" * 400), "max_tokens"),
    "max_tokens between two numbers": (b'{%s, "max_tokens": 5.5}' % CHAT, "max_tokens"),
    "max_tokens of a wrong type": (b'{%s, "max_tokens": "ten"}' % CHAT, "max_tokens"),
    "zero max_completion_tokens": (b'{%s, "max_completion_tokens": 0}' % CHAT, "max_completion_tokens"),
    "stream of a wrong type": (b'{%s, "stream": "yes"}' % CHAT, "stream"),
}


@pytest.mark.parametrize(
    ("fields", "prompts", "samples"),
    [
        (b'"prompt": "x"', 1, 1),
        (b'"prompt": ["x", "y"], "n": 3', 2, 3),
        (b'"prompt": [1, 2, 3], "n": null', 1, 1),
        (b'"prompt": [ [1, 2], [3]], "n": 2.0', 2, 2),
        (b'"prompt": [], "n": 0', 1, 1),
    ],
)
def test_prompts_and_the_responses_to_each_are_counted(fields, prompts, samples):
    inquiry = read_inquiry("id", chat=False, body=b"{%s}" % fields, headers={})
    assert (inquiry.prompts, inquiry.samples) == (prompts, samples)


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_bad_bodies_are_refused_in_openais_shape(world, case):
    body, param = BAD_BODIES[case]
    fleet = await world(instances=1)
    answer = await fleet.http.post(f"{fleet.url}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert answer.headers["x-request-id"]
    assert fleet.instances["a"].received == []


async def test_bad_headers_and_unknown_names_are_refused(world):
    fleet = await world(instances=1)
    for headers, param in [
        ({"x-block-policy": "nonsense"}, "x-block-policy"),
        ({"x-block-output-tokens": "-3"}, "x-block-output-tokens"),
        ({"x-block-output-tokens": "many"}, "x-block-output-tokens"),
        ({"x-block-output-tokens": "9" * 5000}, "x-block-output-tokens"),
        ({"x-block-output-tokens": "²".encode("latin-1")}, "x-block-output-tokens"),
    ]:
        answer = await fleet.chat(headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    answer = await fleet.chat(model="gpt-17")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "llama" in answer.json()["error"]["message"]
    assert (await fleet.http.get(f"{fleet.url}/nowhere")).status_code == 404
    answer = await fleet.http.get(f"{fleet.url}/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert fleet.instances["a"].received == []


async def test_completion_prompts_of_every_kind_pass(world):
    fleet = await world(instances=1)
    for prompt in ["text", ["one", "two"], [1, 2, 3], [[1], [2, 3]], None]:
        body = {"model": "llama", "prompt": prompt, "stream": True}
        answer = await fleet.http.post(f"{fleet.url}/v1/completions", json=body)
        assert answer.status_code == 200
    answer = await fleet.http.post(f"{fleet.url}/v1/completions", json={"prompt": {"a": 1}})
    assert answer.status_code == 400


async def test_limits_are_taken_as_vllm_takes_them(world):
    """Whole numbers with a point, and a completion that generates nothing."""
    fleet = await world(instances=1, predictors=True, policy="block")
    for fields in [{"max_tokens": 0, "echo": True}, {"max_tokens": 5.0}, {"max_tokens": 5.0, "n": 2.0}]:
        body = {"model": "llama", "prompt": "text", **fields}
        assert (await fleet.http.post(f"{fleet.url}/v1/completions", json=body)).status_code == 200
    assert (await fleet.chat(max_completion_tokens=7.0, max_tokens=3)).status_code == 200
    asked = [question.candidate.max_tokens for question in fleet.predictors["a"].questions]
    assert asked == [1, 5, 5, 7]


async def test_oversized_bodies_are_refused_with_and_without_a_declared_length(world):
    fleet = await world(instances=1, max_body_bytes=2048)
    url = f"{fleet.url}/v1/chat/completions"

    async def pieces():
        for _ in range(100):
            yield b"x" * 100

    for content in (b"x" * 5000, pieces()):
        async with httpx.AsyncClient() as http:
            answer = await http.post(url, content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


async def test_a_body_that_stops_arriving_is_given_up(world):
    fleet = await world(instances=1, idle_timeout_s=0.3)
    host, port = fleet.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        reply = await asyncio.to_thread(connection.recv, 4096)
    assert reply.startswith(b"HTTP/1.1 408 ")


async def test_what_is_not_http_hurts_nobody(world):
    fleet = await world(instances=1)
    host, port = fleet.url.removeprefix("http://").split(":")
    for garbage in (b"\x00\xff\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nX: \x00\r\n\r\n", b"GET\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(garbage)
            reply = await asyncio.to_thread(connection.recv, 4096)
        assert reply.startswith(b"HTTP/1.1 400 ") or reply == b""
    assert (await fleet.chat()).status_code == 200


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(body, chat):
    with contextlib.suppress(RequestError):
        assert read_inquiry("id", chat=chat, body=body, headers={}).body is body


@pytest.mark.parametrize("header", ["x-block-slo-ttft-ms", "x-block-slo-e2e-ms"])
@pytest.mark.parametrize(
    "value", ["", "0", "-5", "fast", "1e3", "nan", "1 000", "99999999999", "86400001", "²"]
)
def test_bad_objectives_are_refused_by_name(header, value):
    with pytest.raises(RequestError) as refusal:
        read_inquiry("id", chat=True, body=b"{%s}" % CHAT, headers={header: value})
    assert refusal.value.param == header


def test_objectives_are_read_in_milliseconds():
    headers = {"x-block-slo-ttft-ms": "250", "x-block-slo-e2e-ms": "1500.5"}
    inquiry = read_inquiry("id", chat=True, body=b"{%s}" % CHAT, headers=headers)
    assert (inquiry.slo_ttft_s, inquiry.slo_e2e_s) == (0.25, 1.5005)


@pytest.mark.parametrize(
    ("user", "headers", "session"),
    [
        (b'"someone"', {}, '"someone"'),
        (b'"someone"', {"x-block-session": "s-1"}, "s-1"),
        (b"null", {}, ""),
        (b'""', {}, ""),
        (b"17", {}, "17"),
    ],
)
def test_the_session_is_the_header_or_else_the_user(user, headers, session):
    inquiry = read_inquiry("id", chat=True, body=b'{%s, "user": %s}' % (CHAT, user), headers=headers)
    assert inquiry.session == session
