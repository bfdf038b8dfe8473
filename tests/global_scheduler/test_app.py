"""The scheduler end to end, over real sockets: what clients see when all goes well."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref

import openai
import pytest


async def test_stream_and_whole_answers_arrive_byte_for_byte(world, expected_stream, expected_whole):
    fleet = await world()
    streamed = await fleet.chat(stream=True)
    assert streamed.content == expected_stream
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    whole = await fleet.chat()
    assert whole.content == expected_whole
    assert whole.headers["x-engine"] == "v1"


async def test_the_request_body_arrives_byte_for_byte(world):
    fleet = await world(instances=1, upstream={"forward_client_key": True})
    body = b'{ "messages":[{"role":"user","content":"\xc3\xa9 \\u00e9"}],\n"unknown": 1e5, "model":"llama"  }'
    await fleet.http.post(
        f"{fleet.url}/v1/chat/completions?a=b%20c",
        content=body,
        headers={
            "Authorization": "Bearer k",
            "X-Custom": "kept",
            "Connection": "keep-alive, x-hop",
            "x-hop": "1",
        },
    )
    headers, received, path = fleet.instances["a"].received[0]
    assert received == body
    assert path == "/v1/chat/completions?a=b%20c"
    assert headers["Authorization"] == "Bearer k"
    assert headers["X-Custom"] == "kept"
    assert not {"x-hop", "accept-encoding"} & {name.lower() for name in headers}


async def test_headers_tell_the_choice(world):
    fleet = await world(predictors=True, policy="block")
    fleet.predictors["a"].e2e_s, fleet.predictors["b"].e2e_s = 2.0, 1.0
    answer = await fleet.chat(stream=True, headers={"x-request-id": "req-1"})
    assert answer.headers["x-block-instance"] == "b"
    assert answer.headers["x-block-policy"] == "block"
    assert answer.headers["x-block-predicted-e2e-ms"] == "1000.000"
    assert answer.headers["x-block-predicted-ttft-ms"] == "100.000"
    decision_ms, overhead_ms = (
        float(answer.headers[f"x-block-{name}-ms"]) for name in ("decision", "overhead")
    )
    assert 0 < decision_ms < overhead_ms < 1000
    assert answer.headers["x-request-id"] == "req-1"
    assert "x-block-fallback" not in answer.headers


async def test_an_id_that_a_client_uses_again_is_unique_in_the_fleet(world, wait_until):
    fleet = await world(instances=1, predictors=True, policy="block")
    answers = [await fleet.chat(headers={"x-request-id": "again"}) for _ in range(2)]
    assert [answer.headers["x-request-id"] for answer in answers] == ["again", "again"]
    forwarded = [headers["X-Request-Id"] for headers, _, _ in fleet.instances["a"].received]
    assert len(set(forwarded)) == 2
    assert all(id_.startswith("again-") for id_ in forwarded)
    asked = [question.candidate.id for question in fleet.predictors["a"].questions]
    assert asked == forwarded
    await wait_until(lambda: fleet.predictors["a"].committed == forwarded)


@pytest.mark.parametrize("given", ["", "x" * 129, "with space", "é".encode(), "semi;colon"])
async def test_an_odd_request_id_is_replaced(world, given):
    fleet = await world(instances=1)
    answer = await fleet.chat(headers={"x-request-id": given})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 32


async def test_the_policy_header_chooses_the_policy(world):
    fleet = await world()
    served = [
        (await fleet.chat(headers={"x-block-policy": "round_robin"})).headers["x-block-instance"]
        for _ in range(4)
    ]
    assert served == ["a", "b", "a", "b"]
    answer = await fleet.chat(headers={"x-block-policy": "least_request"})
    assert answer.headers["x-block-policy"] == "least_request"


async def test_the_official_client_streams(world):
    fleet = await world()
    async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="llama", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        chunks = [chunk async for chunk in stream]
        listed = [model.id async for model in client.models.list()]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).startswith("tok0 é")
    assert chunks[-1].usage.total_tokens == 8
    assert listed == ["llama"]


async def test_the_official_synchronous_client_gets_a_whole_answer(world):
    fleet = await world()

    def ask() -> openai.types.chat.ChatCompletion:
        with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
            return client.chat.completions.create(model="llama", messages=[{"role": "user", "content": "hi"}])

    answer = await asyncio.to_thread(ask)
    assert answer.choices[0].message.tool_calls[0].function.name == "f"


async def test_many_streams_at_once_all_arrive_whole(world, expected_stream):
    fleet = await world(instances=3, policy="least_request")
    answers = await asyncio.gather(*(fleet.chat(stream=True) for _ in range(150)))
    assert {answer.content for answer in answers} == {expected_stream}
    assert all(len(instance.received) == 50 for instance in fleet.instances.values())


async def test_model_lists_are_merged_and_untouched(world):
    fleet = await world()
    fleet.instances["b"].models = ["llama", "adapter"]
    fleet.instances["b"].healthy = False
    await fleet.until_healthy("a")
    assert [m["id"] for m in (await fleet.http.get(f"{fleet.url}/v1/models")).json()["data"]] == ["llama"]
    fleet.instances["b"].healthy = True
    await fleet.until_healthy("a", "b")
    data = (await fleet.http.get(f"{fleet.url}/v1/models")).json()["data"]
    assert [(m["id"], m["x"]) for m in data] == [("llama", "a"), ("adapter", "b")]
    answers = [await fleet.chat(model="adapter") for _ in range(4)]
    assert {answer.headers["x-block-instance"] for answer in answers} == {"b"}


async def test_health_and_metrics(world):
    fleet = await world()
    await fleet.chat()
    await fleet.chat(headers={"x-block-policy": "nonsense"})
    health = (await fleet.http.get(f"{fleet.url}/health")).json()
    assert health["status"] == "ok"
    assert [one["healthy"] for one in health["instances"]] == [True, True]
    assert await fleet.metric('block_requests_total{instance="a",outcome="2xx",policy="round_robin"}') == 1
    assert await fleet.metric('block_requests_total{instance="none",outcome="4xx",policy="none"}') == 1
    assert await fleet.metric('block_instance_up{instance="a"}') == 1
    assert await fleet.metric('block_outstanding_requests{instance="a"}') == 0


async def test_the_log_has_a_line_per_request_and_no_prompt(world, caplog, wait_until):
    fleet = await world(predictors=True, policy="block", estimator="oracle")
    with caplog.at_level("INFO", logger="global_scheduler"):
        await fleet.chat(
            messages=[{"role": "user", "content": "a secret"}], headers={"x-request-id": "req-7"}
        )
        await wait_until(lambda: "req-7" in caplog.text)
    logged = [line for record in caplog.records for line in record.message.splitlines()]
    lines = [json.loads(line.removeprefix("request ")) for line in logged if "req-7" in line]
    assert len(lines) == 1
    assert lines[0]["outcome"] == "2xx"
    assert lines[0]["predicted_e2e_s"] == 1.0
    assert lines[0]["actual_e2e_s"] > 0
    assert "secret" not in caplog.text


async def test_a_scheduler_that_has_ended_is_not_kept_by_what_is_remembered_of_its_clients(world):
    fleet = await world(instances=1)
    assert (await fleet.chat()).status_code == 200
    router = weakref.ref(fleet.scheduler.app._router)
    await fleet.scheduler.stop()
    fleet.scheduler = None
    gc.collect()
    assert router() is None
