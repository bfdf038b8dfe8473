"""The command line: help with an example, clear errors, and the real process from start to SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import httpx
import yaml
from typer.testing import CliRunner

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
    assert "policy = 'blok': unknown; known: block" in result.output


async def test_the_process_serves_and_ends_on_sigterm(world, tmp_path, expected_stream):
    fleet = await world()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = fleet.configure({}).model_dump(mode="json") | {"port": port}
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "global_scheduler.cli", "--config", str(path)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        answer = await ask(port)
        assert answer.content == expected_stream
        process.send_signal(signal.SIGTERM)
        _, log = await asyncio.wait_for(process.communicate(), 10)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert b'"outcome":"2xx"' in log
    assert b"Traceback" not in log


async def ask(port: int) -> httpx.Response:
    """One stream, from a server that may still be starting."""
    body = {"model": "llama", "messages": [], "stream": True}
    async with httpx.AsyncClient() as http:
        for _ in range(100):
            try:
                return await http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body)
            except httpx.ConnectError:
                await asyncio.sleep(0.1)
    raise AssertionError("the scheduler did not start")
