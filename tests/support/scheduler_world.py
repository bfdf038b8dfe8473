"""A fleet of fakes and the real scheduler before it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import httpx
import uvloop
from fake_instance import FakeInstance
from fake_predictor import FakePredictor
from openai_answers import MODEL

from block.config import SchedulerConfig
from block.http.server import Server
from global_scheduler.app import create_app


class Scheduler:
    """The real service under uvloop, in a thread of its own."""

    def __init__(self, config: SchedulerConfig, worker: int | None = None) -> None:
        self.app = create_app(config, worker)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.started = threading.Event()
        self.ended: asyncio.Event | None = None
        self.thread = threading.Thread(target=uvloop.run, args=(self._serve(),), daemon=True)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        server = Server(self.app)
        await server.start(self.socket)
        self.started.set()
        await self.ended.wait()
        await server.stop(grace_s=1)

    async def start(self) -> None:
        self.thread.start()
        assert await asyncio.to_thread(self.started.wait, 5)

    async def stop(self) -> None:
        assert self.loop is not None
        assert self.ended is not None
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.ended.set)
        await asyncio.to_thread(self.thread.join, 10)
        assert not self.thread.is_alive()
        self.socket.close()

    def tasks(self) -> int:
        assert self.loop is not None
        return len(asyncio.all_tasks(self.loop))


async def until(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Wait for a condition; fail if it never comes."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  (a condition of another thread has no event)
            await asyncio.sleep(0.005)


class World:
    """Instances, predictors, the scheduler, and a plain HTTP client to it."""

    def __init__(self) -> None:
        self.instances: dict[str, FakeInstance] = {}
        self.predictors: dict[str, FakePredictor] = {}
        self.scheduler: Scheduler | None = None
        self.http = httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=None))

    @property
    def url(self) -> str:
        assert self.scheduler is not None
        return self.scheduler.url

    def configure(self, settings: dict[str, Any]) -> SchedulerConfig:
        instances = [
            {
                "name": name,
                "url": instance.url,
                "predictor_url": self.predictors[name].url if name in self.predictors else None,
            }
            for name, instance in self.instances.items()
        ]
        defaults = {"policy": "round_robin", "health_interval_s": 0.1, "probe_deadline_s": 0.25}
        return SchedulerConfig.model_validate({"instances": instances, "settings": defaults | settings})

    async def stop(self) -> None:
        await self.http.aclose()
        if self.scheduler is not None:
            await self.scheduler.stop()
        for fake in [*self.instances.values(), *self.predictors.values()]:
            await fake.stop()

    async def chat(
        self, stream: bool = False, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **fields}
        return await self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    async def until_healthy(self, *names: str) -> None:
        """Wait until the scheduler takes exactly these instances for healthy."""
        async with asyncio.timeout(5):
            while True:
                report = (await self.http.get(f"{self.url}/health")).json()
                if {one["name"] for one in report["instances"] if one["healthy"]} == set(names):
                    return
                await asyncio.sleep(0.02)

    async def metric(self, line: str) -> float:
        text = (await self.http.get(f"{self.url}/metrics")).text
        found = [row.rsplit(" ", 1)[1] for row in text.splitlines() if row.rsplit(" ", 1)[0] == line]
        return float(found[0]) if found else 0.0
