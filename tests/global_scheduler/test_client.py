"""Clients that leave: the upstream request closes at once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx
import psutil
import pytest


def raw_request(url: str, stream: bool) -> socket.socket:
    body = json.dumps({"model": "llama", "messages": [{"role": "user", "content": "x"}], "stream": stream})
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + body).encode())
    return connection


def connecting(place: tuple[str, int]) -> int:
    """Sockets of this process that wait for that place to take them."""
    sockets = psutil.Process().net_connections("tcp4")
    return sum(one.raddr == place and one.status == psutil.CONN_SYN_SENT for one in sockets)


@pytest.mark.parametrize(
    ("behaviour", "stream"),
    [("hang", True), ("hang", False), ("headers_then_hang", True), ("slow_stream", True), ("stall", True)],
)
async def test_leaving_closes_the_upstream_within_a_second(world, wait_until, behaviour, stream):
    fleet = await world(instances=1, predictors=True)
    engine, predictor = fleet.instances["a"], fleet.predictors["a"]
    engine.behaviour = behaviour
    connection = raw_request(fleet.url, stream)
    await wait_until(lambda: engine.active == 1)
    if behaviour in ("slow_stream", "stall"):
        assert await asyncio.to_thread(connection.recv, 10)
    connection.close()
    await wait_until(lambda: engine.aborted == 1, 1.0)
    await wait_until(lambda: predictor.released == predictor.committed != [], 1.0)
    outcome = 'block_requests_total{instance="a",outcome="gone",policy="round_robin"}'
    assert await fleet.metric(outcome) == 1
    assert await fleet.metric('block_outstanding_requests{instance="a"}') == 0


async def test_leaving_while_a_connection_is_opened_closes_its_socket(world, wait_until):
    """The instance takes no connection any more: nobody accepts, and its backlog is full."""
    fleet = await world(instances=1, connect_timeout_s=60, health_interval_s=60)
    await fleet.until_healthy("a")
    tasks = fleet.scheduler.tasks()
    fleet.instances["a"].behaviour = "hang"
    place = fleet.instances["a"].stop_accepting()
    with socket.create_connection(place):  # takes the room there is
        clients = [raw_request(fleet.url, stream=True) for _ in range(6)]
        await wait_until(lambda: fleet.instances["a"].active + connecting(place) == 6)
        assert connecting(place) >= 5  # one may have gone over the health poll's connection
        for client in clients:
            client.close()
        await wait_until(lambda: connecting(place) == 0)
        outcome = 'block_requests_total{instance="a",outcome="gone",policy="round_robin"}'
        assert await fleet.metric(outcome) == 6
        assert await fleet.metric('block_outstanding_requests{instance="a"}') == 0
        await wait_until(lambda: fleet.scheduler.tasks() <= tasks)


async def test_leaving_during_the_probes_sends_nothing(world, wait_until):
    fleet = await world(instances=1, predictors=True, policy="block", probe_deadline_s=5)
    fleet.predictors["a"].behaviour = "slow"
    connection = raw_request(fleet.url, stream=True)
    await wait_until(lambda: fleet.predictors["a"].questions)
    connection.close()
    await asyncio.sleep(0.8)
    assert fleet.instances["a"].received == []
    assert await fleet.metric('block_requests_total{instance="none",outcome="gone",policy="block"}') == 1


async def test_two_hundred_aborted_requests_leave_no_task(world, wait_until):
    fleet = await world(predictors=True, policy="block")
    await fleet.chat()
    await asyncio.sleep(0.3)
    before = fleet.scheduler.tasks()
    for instance in fleet.instances.values():
        instance.behaviour = "slow_stream"

    async def read_a_little_and_leave() -> None:
        async with httpx.AsyncClient(timeout=20) as http:
            body = {"model": "llama", "messages": [], "stream": True}
            async with http.stream("POST", f"{fleet.url}/v1/chat/completions", json=body) as answer:
                async for _ in answer.aiter_raw():
                    break

    for _ in range(4):
        await asyncio.gather(*(read_a_little_and_leave() for _ in range(50)))
    await wait_until(lambda: sum(one.aborted for one in fleet.instances.values()) == 200)
    await wait_until(lambda: fleet.scheduler.tasks() <= before + 1)
    assert await fleet.metric('block_outstanding_requests{instance="a"}') == 0
    assert await fleet.metric('block_outstanding_requests{instance="b"}') == 0


async def test_shutdown_does_not_wait_for_a_wedged_instance(world, wait_until):
    fleet = await world(instances=1)
    fleet.instances["a"].behaviour = "hang"
    connection = raw_request(fleet.url, stream=True)
    await wait_until(lambda: fleet.instances["a"].active == 1)
    async with asyncio.timeout(5):
        await fleet.scheduler.stop()
    connection.close()
