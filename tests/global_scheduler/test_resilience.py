"""Instances that look healthy and are not, too much to do, answers that take too long, clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time

import pytest

QUICK = {"first_pause_s": 0.2, "longest_pause_s": 0.4}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behaviour", ["hang", "headers_then_hang"])
async def test_an_instance_that_hangs_behind_its_health_page_is_found_out_and_comes_back(
    world, wait_until, behaviour, stream
):
    fleet = await world(
        suspect_after_s=0.1, silence_timeout_s=0.4, whole_silence_timeout_s=0.4, breaker=QUICK
    )
    wedged = fleet.instances["a"]
    wedged.behaviour = behaviour
    first = await asyncio.wait_for(fleet.chat(stream=stream), 5)
    assert (first.status_code, first.headers["x-block-instance"]) == (200, "b")
    assert first.headers["x-block-attempts"] == "2"
    began_s = time.monotonic()
    answers = [await fleet.chat(stream=stream) for _ in range(10)]
    assert {answer.headers["x-block-instance"] for answer in answers} == {"b"}
    assert time.monotonic() - began_s < 1.0
    await wait_until(lambda: wedged.active <= 1)  # the check, which hangs as well
    wedged.behaviour = "serve"
    async with asyncio.timeout(10):
        while (await fleet.chat(stream=stream)).headers["x-block-instance"] != "a":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await fleet.metric('block_breaker_state{instance="a"}') == 0


async def test_a_suspicious_silence_alone_only_sends_new_requests_elsewhere(world, wait_until):
    fleet = await world(suspect_after_s=0.1)
    fleet.instances["a"].delay_s = 0.8
    slow = asyncio.create_task(fleet.chat(stream=True))
    await wait_until(lambda: fleet.instances["a"].active == 1)
    await asyncio.sleep(0.5)
    others = [await fleet.chat(stream=True) for _ in range(4)]
    assert {answer.headers["x-block-instance"] for answer in others} == {"b"}
    answer = await slow
    assert (answer.status_code, answer.headers["x-block-instance"]) == (200, "a")
    assert "x-block-attempts" not in answer.headers


async def test_while_bytes_come_for_somebody_there_is_no_silence(world, wait_until):
    fleet = await world(instances=1, suspect_after_s=0.1, silence_timeout_s=0.3)
    engine = fleet.instances["a"]
    engine.behaviour = "slow_stream"
    flowing = asyncio.create_task(fleet.chat(stream=True))
    await wait_until(lambda: engine.written > 2)
    engine.behaviour, engine.delay_s = "serve", 1.0
    answer = await fleet.chat(stream=True)
    assert (answer.status_code, len(engine.received)) == (200, 2)
    assert await fleet.metric('block_breaker_state{instance="a"}') == 0
    flowing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await flowing


@pytest.mark.parametrize("behaviour", ["die_first", "fail", "garbage", "engine_error"])
async def test_one_that_fails_time_and_again_gets_no_more(world, behaviour):
    fleet = await world(breaker={"failures_in_a_row": 3, "first_pause_s": 60.0, "longest_pause_s": 60.0})
    fleet.instances["a"].behaviour = behaviour
    answers = [await fleet.chat(stream=True) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert len(fleet.instances["a"].received) == 3
    assert await fleet.metric('block_breaker_state{instance="a"}') == 2


async def test_one_long_answer_that_tries_does_not_keep_an_instance_without_traffic(world, wait_until):
    fleet = await world(breaker=QUICK | {"failures_in_a_row": 1, "trial_s": 0.4})
    engine = fleet.instances["a"]
    engine.behaviour = "fail"
    while await fleet.metric('block_breaker_state{instance="a"}') != 2:
        await fleet.chat()
    engine.behaviour = "serve"
    async with asyncio.timeout(5):
        while await fleet.metric('block_breaker_state{instance="a"}') != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    engine.delay_s = 6.0
    long = [asyncio.create_task(fleet.chat()) for _ in range(2)]
    await wait_until(lambda: engine.active == 1)
    engine.delay_s = 0.0
    assert {(await fleet.chat()).headers["x-block-instance"] for _ in range(4)} == {"b"}
    async with asyncio.timeout(4):
        while (await fleet.chat()).headers["x-block-instance"] != "a":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await fleet.metric('block_breaker_state{instance="a"}') == 0
    assert engine.active == 1  # the long one is still under way
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


async def test_streams_that_break_in_the_middle_open_the_breaker_too(world):
    fleet = await world(
        breaker={
            "failures_in_a_row": 3,
            "first_pause_s": 60.0,
            "window_s": 30.0,
            "longest_pause_s": 60.0,
            "least_outcomes": 4,
        }
    )
    fleet.instances["a"].behaviour = "die_in_event"
    for _ in range(12):
        await fleet.chat(stream=True)
    assert len(fleet.instances["a"].received) <= 4


async def test_a_failure_that_every_instance_shares_takes_no_instance_away(world):
    fleet = await world(breaker={"failures_in_a_row": 2, "first_pause_s": 60.0, "longest_pause_s": 60.0})
    for instance in fleet.instances.values():
        instance.behaviour = "fail"
    for _ in range(4):
        assert (await fleet.chat()).status_code == 500
    for instance in fleet.instances.values():
        instance.behaviour = "serve"
    assert (await fleet.chat()).status_code == 200


async def test_more_than_may_be_outstanding_is_refused_with_a_time_to_come_back(world, wait_until):
    fleet = await world(instances=1, max_outstanding=2)
    engine = fleet.instances["a"]
    engine.delay_s = 0.5
    running = [asyncio.create_task(fleet.chat()) for _ in range(2)]
    await wait_until(lambda: engine.active == 2)
    refused = await fleet.chat()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "overloaded"
    assert refused.headers["x-request-id"]
    assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
    assert (await fleet.chat()).status_code == 200


@pytest.mark.parametrize("stream", [b"true", b"false"])
async def test_a_request_that_waits_behind_another_of_its_client_is_not_worked_on_with_it(world, stream):
    fleet = await world(instances=1, max_outstanding=1)
    host, port = fleet.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"stream":%b}' % stream
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body)
    writer.write((head + b"\r\n" + body) * 2 + head + b"Connection: close\r\n\r\n" + body)
    answers = await asyncio.wait_for(reader.read(), 5)
    writer.transport.abort()
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == [b"200"] * 3


async def test_a_stream_ends_at_the_total_limit_and_the_instance_is_not_to_blame(world, wait_until):
    fleet = await world(instances=1, total_timeout_s=0.5)
    fleet.instances["a"].behaviour = "slow_stream"
    answer = await fleet.chat(stream=True)
    event = json.loads(answer.content.split(b"\n\n")[-2].removeprefix(b"data: "))
    assert event["error"]["code"] == "total_timeout"
    assert await fleet.metric('block_breaker_state{instance="a"}') == 0
    await wait_until(lambda: fleet.instances["a"].active == 0)
    fleet.instances["a"].behaviour = "hang"
    answer = await fleet.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "instance_timeout")


@pytest.mark.parametrize("behaviour", ["hang", "slow_stream", "die_first"])
async def test_a_client_that_leaves_cancels_once_whatever_the_moment(world, wait_until, behaviour):
    """While it waits, in mid-stream, and in the pause between two attempts."""
    fleet = await world(predictors=True, policy="block", retry_pause_s=30.0)
    for instance in fleet.instances.values():
        instance.behaviour = behaviour
    host, port = fleet.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"stream":true}')
    engines, predictors = fleet.instances.values(), fleet.predictors.values()
    await wait_until(lambda: sum(len(one.received) for one in engines) == 1)
    await asyncio.sleep(0.1)
    writer.transport.abort()
    gone = 'block_requests_total{instance="%s",outcome="gone",policy="block"}'
    async with asyncio.timeout(5):
        while sum([await fleet.metric(gone % name) for name in fleet.instances]) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await wait_until(lambda: sum(one.active for one in engines) == 0)
    await wait_until(lambda: sum(len(one.released) for one in predictors) >= 1)
    await asyncio.sleep(0.2)
    assert sum(len(one.released) for one in predictors) == 1
    assert sum(one.aborted for one in engines) == (behaviour != "die_first")
    for name in fleet.instances:
        assert await fleet.metric(f'block_outstanding_requests{{instance="{name}"}}') == 0
