"""The command line: help with an example, clear errors, and the real process from start to SIGTERM."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from block.config import SchedulerConfig
from deploy import local
from global_scheduler.cli import app


def test_help_shows_an_example():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "Example: block-scheduler --config" in result.output


def test_bad_configurations_give_one_clear_line_and_exit_1(tmp_path):
    path = tmp_path / "scheduler.yaml"
    result = CliRunner().invoke(app, ["--config", str(path)])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    instances = [{"name": "a", "url": "http://127.0.0.1:1"}]
    path.write_text(yaml.safe_dump({"instances": instances, "settings": {"policy": "blok"}}))
    result = CliRunner().invoke(app, ["--config", str(path)])
    assert result.exit_code == 1
    assert f"{path}: settings.policy = 'blok': unknown; known: block" in result.output


@asynccontextmanager
async def running(config: SchedulerConfig, folder: Path, *flags: str) -> AsyncIterator[tuple[Process, int]]:
    """The scheduler in a process of its own, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = folder / "scheduler.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json") | {"port": port}))
    command = [sys.executable, "-m", "global_scheduler.cli", "--config", str(path), *flags]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_process_serves_and_ends_on_sigterm(world, tmp_path, expected_stream):
    fleet = await world()
    async with running(fleet.configure({}), tmp_path) as (process, port):
        answer = await ask(port)
        assert answer.content == expected_stream
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 10)
    assert b'"outcome":"2xx"' in log
    assert b"Traceback" not in log


async def test_what_is_open_at_the_end_of_the_grace_ends_with_an_error_and_a_receipt(world, tmp_path):
    """One stream that flows, one request that waits for its first byte; a launcher would not have to kill."""
    fleet = await world()
    async with running(fleet.configure({}), tmp_path) as (process, port):
        await ask(port)
        fleet.instances["b"].behaviour, fleet.instances["a"].behaviour = "slow_stream", "hang"
        stream = asyncio.create_task(ask(port))
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(ask(port))
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), local._GRACE_S)
        broken, refused = await stream, await waiting
    event = broken.content.split(b"\n\n")[-2]
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "shutdown"
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutdown")
    assert log.count(b'"outcome":"broken"') == log.count(b'"outcome":"5xx"') == 1
    assert b"Traceback" not in log


async def test_an_upgrade_to_a_websocket_is_refused_like_any_other_wrong_method(world, tmp_path):
    fleet = await world(instances=1)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with running(fleet.configure({}), tmp_path) as (process, port):
        await ask(port)
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{port}/v1/chat/completions", headers=headers)
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 10)
    assert answer.status_code == 405
    assert b"Traceback" not in log


async def test_workers_share_the_port_are_replaced_and_end_together(world, tmp_path, expected_stream):
    fleet = await world()
    async with running(fleet.configure({}), tmp_path, "--workers", "2") as (process, port):
        await ask(port)
        supervisor = psutil.Process(process.pid)
        first = {worker.pid for worker in supervisor.children()}
        assert len(first) == 2
        supervisor.children()[0].kill()
        async with asyncio.timeout(10):
            while len({worker.pid for worker in supervisor.children()} - first) < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        answers = await asyncio.gather(*(ask(port) for _ in range(20)))
        assert {answer.content for answer in answers} == {expected_stream}
        async with httpx.AsyncClient() as http:
            page = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 10)
    samples = [line for line in page.splitlines() if not line.startswith("#")]
    assert samples
    assert all(re.match(r'\w+\{worker="[01]"[,}]', line) for line in samples)
    assert any(line.startswith("block_probe_seconds_count{worker=") for line in samples)
    assert process.returncode == 0
    assert log.count(b'"outcome":"2xx"') >= 20  # the killed one may have taken its newest lines along
    assert b"Traceback" not in log


async def test_workers_do_not_outlive_a_supervisor_that_is_killed(world, tmp_path):
    fleet = await world()
    async with running(fleet.configure({}), tmp_path, "--workers", "2") as (process, port):
        await ask(port)
        workers = psutil.Process(process.pid).children()
        process.kill()
        await process.wait()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, workers, timeout=10)
    assert (len(gone), alive) == (2, [])


async def test_an_address_that_is_taken_is_one_clear_line(world, tmp_path):
    fleet = await world(instances=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = tmp_path / "scheduler.yaml"
        path.write_text(yaml.safe_dump(fleet.configure({}).model_dump(mode="json") | {"port": port}))
        result = CliRunner().invoke(app, ["--config", str(path)])
    assert result.exit_code == 1
    assert result.output.strip() == f"127.0.0.1:{port}: cannot listen there (Address already in use)"


def test_nothing_listens_to_others_without_keys(world, tmp_path):
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump({"instances": [{"name": "a", "url": "http://h"}], "host": "0.0.0.0"}))
    result = CliRunner().invoke(app, ["--config", str(path)])
    assert result.exit_code == 1
    assert "names no keys" in result.output
    assert "--allow-anyone" in result.output


async def test_the_official_client_over_tls_with_a_key_and_receipts_opened_anew(
    world, tmp_path, certificate, monkeypatch, wait_until
):
    """The whole of operating it, in the real process: two workers, HTTPS, keys, SIGHUP, JSON logs."""
    monkeypatch.setenv("BLOCK_KEYS", "a-client-key")
    fleet = await world()
    receipts, moved = tmp_path / "receipts.jsonl", tmp_path / "receipts.jsonl.1"
    settings = {
        "access": {"keys": {"env": "BLOCK_KEYS"}},
        "tls": {"certificate": str(certificate)},
        "receipts": {"file": str(receipts)},
    }
    flags = ("--workers", "2", "--log-format", "json")
    async with (
        running(fleet.configure(settings), tmp_path, *flags) as (process, port),
        httpx.AsyncClient(verify=ssl.create_default_context(cafile=certificate), timeout=20) as http,
        openai.AsyncOpenAI(
            base_url=f"https://localhost:{port}/v1", api_key="a-client-key", http_client=http
        ) as client,
    ):
        assert await first_words(client)
        await wait_until(lambda: receipts.read_bytes().count(b"\n") == 1)
        receipts.rename(moved)
        process.send_signal(signal.SIGHUP)
        await wait_until(receipts.exists)
        assert await first_words(client)
        # The other worker may be a little later in opening it.
        await wait_until(lambda: (receipts.read_bytes() + moved.read_bytes()).count(b"\n") == 2)
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="another-key").models.list()
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 10)
    lines = [json.loads(line) for line in log.splitlines()]
    assert sum(line.get("request", {}).get("outcome") == "2xx" for line in lines) == 2
    assert b"a-client-key" not in log
    assert b"another-key" not in log
    assert b"Traceback" not in log


async def first_words(client: openai.AsyncOpenAI) -> str:
    """Of a stream, from a server that may still be starting."""
    for _ in range(100):
        try:
            stream = await client.chat.completions.create(
                model="llama", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        except openai.APIConnectionError:
            await asyncio.sleep(0.1)
    raise AssertionError("the scheduler did not start")


async def ask(port: int) -> httpx.Response:
    """One stream, from a server that may still be starting."""
    body = {"model": "llama", "messages": [], "stream": True}
    async with httpx.AsyncClient(timeout=20) as http:
        for _ in range(100):
            try:
                return await http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
            except httpx.ConnectError:
                await asyncio.sleep(0.1)
    raise AssertionError("the scheduler did not start")
