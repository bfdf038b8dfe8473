"""What the proxy's own work costs per request and per stream: httpx against aiohttp, and the scheduler.

A mock instance, the proxies and the load each run in a process of their own; every proxy is raw ASGI
on uvicorn with httptools and uvloop, so only the client library differs. CPU time is the proxy
process's own, by the kernel's account. Run: ``python -m exp.byte_path_cost``.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import aiohttp
import httpx
import psutil
import typer
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from block.config import InstanceConfig, SchedulerConfig, SchedulerSettings
from global_scheduler.app import create_app

CHUNKS = 64
CHUNK_PAUSE_S = 0.01
CONCURRENCY = 32
REQUESTS, STREAMS = 1000, 192
BODY = {"model": "m", "messages": [{"role": "user", "content": "word " * 200}]}
EVENT = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
BODY_ARGUMENT = {"httpx": "content", "aiohttp": "data"}
PROXIES = ("httpx", "aiohttp", "scheduler")


async def _read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _start(send: Send, content_type: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]})


async def mock_instance(_: Scope, receive: Receive, send: Send) -> None:
    """Answers as a vLLM server would: at once, or as a stream of CHUNKS events."""
    streaming = b'"stream"' in await _read_body(receive)
    await _start(send, b"text/event-stream" if streaming else b"application/json")
    for _chunk in range(CHUNKS if streaming else 0):
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        await asyncio.sleep(CHUNK_PAUSE_S)
    body = b"data: [DONE]\n\n" if streaming else b'{"data":[{"id":"m"}]}'
    await send({"type": "http.response.body", "body": body})


def minimal_proxy(library: str, upstream: str) -> ASGIApp:
    """The least that passes bytes through with ``library``; reads no field, retries nothing."""
    clients: dict[str, Any] = {}  # opened by the first request: that needs the running loop

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if not clients:
            clients["httpx"] = httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60)
            clients["aiohttp"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        url, body = upstream + scope["path"], await _read_body(receive)
        ask = partial(clients["httpx"].stream, "POST") if library == "httpx" else clients["aiohttp"].post
        async with ask(url, **{BODY_ARGUMENT[library]: body}) as answer:
            await _start(send, answer.headers["content-type"].encode())
            async for chunk in answer.aiter_raw() if library == "httpx" else answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return proxy


def run_server(role: str, listener: socket.socket, upstream: str) -> None:
    """Process entry: serve one role until terminated."""
    app: ASGIApp = mock_instance
    if role == "scheduler":
        instances = (InstanceConfig(name="mock", url=upstream),)
        app = create_app(
            SchedulerConfig(instances=instances, settings=SchedulerSettings(policy="round_robin"))
        )
    elif role != "mock":
        app = minimal_proxy(role, upstream)
    options: dict[str, Any] = {"lifespan": "on" if role == "scheduler" else "off", "log_level": "error"}
    config = uvicorn.Config(
        app, http="httptools", loop="uvloop", access_log=False, proxy_headers=False, **options
    )
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def server(role: str, upstream: str = "") -> Iterator[tuple[str, psutil.Process]]:
    """A server process; gives its address and the process."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_server, args=(role, listener, upstream))
    process.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.join()
        listener.close()


async def load(url: str, requests: int, *, stream: bool) -> None:
    """Send ``requests`` with CONCURRENCY at a time; every answer must be whole."""
    body = json.dumps(BODY | ({"stream": True} if stream else {})).encode()
    gate = asyncio.Semaphore(CONCURRENCY)
    end = b"[DONE]\n\n" if stream else b"]}"

    async def one(session: aiohttp.ClientSession) -> None:
        async with gate, session.post(f"{url}/v1/chat/completions", data=body) as answer:
            if not (await answer.read()).endswith(end):
                raise AssertionError(f"{url} gave a damaged answer")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session) for _ in range(requests)))


def cpu_ms(url: str, process: psutil.Process, requests: int, *, stream: bool) -> float:
    """CPU milliseconds of ``process`` per request, after a warm-up."""
    asyncio.run(load(url, CONCURRENCY, stream=stream))
    before = process.cpu_times()
    asyncio.run(load(url, requests, stream=stream))
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) * 1000 / requests


def measure(rounds: Annotated[int, typer.Option(help="Alternating runs; medians are shown.")] = 5) -> None:
    """Measure all proxies in turn, several times. Example: python -m exp.byte_path_cost --rounds 5."""
    samples: dict[str, dict[str, list[float]]] = {name: {"request": [], "stream": []} for name in PROXIES}
    with server("mock") as (upstream, _):
        for name in PROXIES * rounds:
            with server(name, upstream) as (url, process):
                samples[name]["request"].append(cpu_ms(url, process, REQUESTS, stream=False))
                samples[name]["stream"].append(cpu_ms(url, process, STREAMS, stream=True))
    print(f"{'proxy':<10} {'CPU ms/request':<22} CPU ms/{CHUNKS}-chunk stream; median (min to max)")
    for name, kinds in samples.items():
        cells = [f"{statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in kinds.values()]
        print(f"{name:<10} {cells[0]:<22} {cells[1]}")
    medians = {n: {k: round(statistics.median(v), 3) for k, v in s.items()} for n, s in samples.items()}
    print(json.dumps({"cpu_ms": medians, "rounds": rounds, "requests": REQUESTS, "streams": STREAMS}))


if __name__ == "__main__":
    typer.run(measure)
