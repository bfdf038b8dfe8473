"""Instances that fail: no request is lost before its first byte, none is sent twice after it."""

from __future__ import annotations

import asyncio
import json
import socket

import openai
import pytest


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behaviour", ["die_first", "fail", "garbage"])
async def test_another_instance_serves_what_one_fails_before_the_first_byte(
    world, expected_stream, expected_whole, behaviour, stream
):
    fleet = await world()
    fleet.instances["a"].behaviour = behaviour
    answer = await fleet.chat(stream=stream, headers={"x-request-id": "r"})
    assert answer.status_code == 200
    assert answer.content == (expected_stream if stream else expected_whole)
    assert answer.headers["x-block-instance"] == "b"
    assert [len(one.received) for one in fleet.instances.values()] == [1, 1]


@pytest.mark.parametrize("behaviour", ["die_after_head", "engine_error"])
async def test_the_head_of_a_stream_is_not_yet_a_byte(world, expected_stream, behaviour):
    fleet = await world()
    fleet.instances["a"].behaviour = behaviour
    answer = await fleet.chat(stream=True)
    assert answer.content == expected_stream
    assert answer.headers["x-block-instance"] == "b"


async def test_half_of_a_whole_answer_is_never_seen(world, expected_whole):
    fleet = await world()
    fleet.instances["a"].behaviour = "die_in_whole"
    answer = await fleet.chat()
    assert answer.content == expected_whole


async def test_a_refused_connection_marks_down_at_once(world):
    fleet = await world(health_interval_s=30)
    await fleet.instances["a"].stop()
    answers = [await fleet.chat() for _ in range(4)]
    assert [answer.headers["x-block-instance"] for answer in answers] == ["b"] * 4
    assert await fleet.metric('block_retries_total{reason="connect"}') == 1


async def test_a_stream_that_breaks_ends_with_an_error_event_and_no_retry(world, expected_stream):
    fleet = await world()
    fleet.instances["a"].behaviour = "die_in_event"
    answer = await fleet.chat(stream=True)
    *events, error, rest = answer.content.split(b"\n\n")
    assert expected_stream.startswith(b"\n\n".join(events))
    assert len(events) == 3
    assert rest == b""
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "instance_failed"
    assert b"[DONE]" not in answer.content
    assert fleet.instances["b"].received == []
    assert await fleet.metric('block_requests_total{instance="a",outcome="broken",policy="round_robin"}') == 1


async def test_a_stream_that_stalls_ends_with_an_error_event(world, wait_until):
    fleet = await world(idle_timeout_s=0.3)
    fleet.instances["a"].behaviour = "stall"
    answer = await fleet.chat(stream=True)
    assert b"stalled" in answer.content.split(b"\n\n")[-2]
    await wait_until(lambda: fleet.instances["a"].aborted == 1)


async def test_a_client_that_stops_reading_is_gone_and_the_instance_is_not_to_blame(world, wait_until):
    fleet = await world(instances=1, idle_timeout_s=0.4)
    fleet.instances["a"].behaviour = "flood"
    host, port = fleet.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n")
        connection.sendall(b'{"stream":true}')
        await wait_until(lambda: fleet.instances["a"].aborted == 1)
        line = 'block_requests_total{instance="a",outcome="gone",policy="round_robin"}'
        assert await fleet.metric(line) == 1


async def test_a_slow_reader_holds_its_instance_back_and_gets_every_byte(world, wait_until):
    fleet = await world(instances=1)
    engine = fleet.instances["a"]
    engine.behaviour = "flood"  # 1000 events of 64 KiB
    host, port = fleet.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
    writer.write(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"stream":true}')
    await wait_until(lambda: engine.written > 10)
    await asyncio.sleep(0.5)
    held_at = engine.written
    await asyncio.sleep(0.3)
    assert engine.written == held_at < 500
    read, tail = 0, b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):  # which may come in two pieces
        data = await reader.read(2**16)
        assert data
        read, tail = read + len(data), (tail + data)[-8:]
    writer.close()
    assert read > 1000 * 2**16
    assert engine.written == 1000


async def test_the_official_client_raises_on_the_error_event(world):
    fleet = await world(instances=1)
    fleet.instances["a"].behaviour = "die_in_event"
    async with openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="llama", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="failed in mid-stream"):
            async for _ in stream:
                pass


@pytest.mark.parametrize("stream", [True, False])
async def test_an_instances_own_refusal_passes_untouched_and_is_not_retried(world, stream):
    fleet = await world(predictors=True)
    fleet.instances["a"].behaviour = "refuse"
    answer = await fleet.chat(stream=stream)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the instance says no"
    assert fleet.instances["b"].received == []


async def test_the_last_instances_own_error_passes_when_all_fail(world):
    fleet = await world()
    for instance in fleet.instances.values():
        instance.behaviour = "fail"
    answer = await fleet.chat()
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "EngineCore died"
    answer = await fleet.chat(stream=True)
    assert answer.status_code == 500


async def test_an_engine_error_in_every_first_event_becomes_a_status(world):
    fleet = await world()
    for instance in fleet.instances.values():
        instance.behaviour = "engine_error"
    answer = await fleet.chat(stream=True)
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "EngineCore died"


async def test_attempts_are_bounded(world):
    fleet = await world(instances=4, attempts=2)
    for instance in fleet.instances.values():
        instance.behaviour = "die_first"
    answer = await fleet.chat()
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "instance_failed"
    assert sum(len(instance.received) for instance in fleet.instances.values()) == 2


async def test_refused_connections_are_no_attempts(world, expected_stream):
    """With fewer attempts than dead instances, the healthy ones are still found."""
    fleet = await world(instances=5, attempts=2, health_interval_s=30)
    for name in "abc":
        await fleet.instances[name].stop()
    answer = await fleet.chat(stream=True)
    assert answer.content == expected_stream
    assert answer.headers["x-block-instance"] == "d"
    assert await fleet.metric('block_retries_total{reason="connect"}') == 3


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behaviour", ["hang", "headers_then_hang"])
async def test_what_waits_for_an_instance_that_goes_down_goes_elsewhere(
    world, wait_until, expected_stream, expected_whole, behaviour, stream
):
    fleet = await world()
    fleet.instances["a"].behaviour = behaviour
    waiting = asyncio.create_task(fleet.chat(stream=stream))
    await wait_until(lambda: fleet.instances["a"].active == 1)
    fleet.instances["a"].healthy = False
    answer = await asyncio.wait_for(waiting, 5)
    assert answer.content == (expected_stream if stream else expected_whole)
    assert answer.headers["x-block-instance"] == "b"
    await wait_until(lambda: fleet.instances["a"].aborted == 1)


async def test_a_stream_outlives_a_failed_health_poll(world, wait_until):
    """Given up for new requests, but its bytes still come."""
    fleet = await world(instances=1)
    fleet.instances["a"].behaviour = "slow_stream"
    async with fleet.http.stream("POST", f"{fleet.url}/v1/completions", json={"stream": True}) as answer:
        chunks = answer.aiter_raw()
        await anext(chunks)
        fleet.instances["a"].healthy = False
        await fleet.until_healthy()
        for _ in range(5):
            assert await anext(chunks)
    assert fleet.instances["a"].active <= 1


@pytest.mark.parametrize("behaviour", ["hang", "headers_then_hang"])
async def test_a_late_first_byte_gives_504_and_is_not_computed_again(world, behaviour):
    fleet = await world(first_byte_timeout_s=0.2)
    for instance in fleet.instances.values():
        instance.behaviour = behaviour
    answer = await fleet.chat(stream=True)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "instance_timeout"
    assert [len(one.received) for one in fleet.instances.values()] == [1, 0]


async def test_a_whole_answer_may_take_longer_than_a_first_byte(world, expected_whole):
    fleet = await world(first_byte_timeout_s=0.2)
    fleet.instances["a"].delay_s = 0.6
    answer = await fleet.chat()
    assert answer.content == expected_whole
    assert answer.headers["x-block-instance"] == "a"


async def test_a_whole_answer_has_a_limit_of_its_own(world):
    fleet = await world(response_timeout_s=0.3)
    fleet.instances["a"].behaviour = "hang"
    answer = await fleet.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "instance_timeout")
    assert fleet.instances["b"].received == []


async def test_no_healthy_instance_gives_503_with_retry_after_and_recovers(world):
    fleet = await world()
    for instance in fleet.instances.values():
        instance.healthy = False
    await fleet.until_healthy()
    answer = await fleet.chat()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "no_healthy_instance"
    assert (await fleet.http.get(f"{fleet.url}/health")).status_code == 503
    for instance in fleet.instances.values():
        instance.healthy = True
    await fleet.until_healthy("a", "b")
    assert (await fleet.chat()).status_code == 200


async def test_nothing_is_lost_when_an_instance_dies_under_load(world, wait_until, expected_stream):
    """Requests that wait for their first byte when the instance dies are served by another."""
    fleet = await world(instances=3)
    dying = fleet.instances["b"]
    dying.behaviour = "hang"
    running = [asyncio.create_task(fleet.chat(stream=True)) for _ in range(60)]
    await wait_until(lambda: dying.active == 20)
    await dying.stop()
    running += [asyncio.create_task(fleet.chat(stream=True)) for _ in range(30)]
    answers = await asyncio.gather(*running)
    assert {answer.content for answer in answers} == {expected_stream}
    assert dying.aborted == 20
