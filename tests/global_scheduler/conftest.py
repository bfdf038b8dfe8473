"""Fleet of fakes that behave like vLLM and like predictors, and the real scheduler before them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import uvicorn
from aiohttp import web
from multidict import CIMultiDict

from block.config import SchedulerConfig
from block.messages import CommitRequest, PredictRequest, PredictResponse, ReleaseRequest
from block.types import EngineLoad, Prediction, PredictionSpread
from global_scheduler.app import create_app

MODEL = "llama"
TOKENS = 5


def sse(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chat_chunks() -> list[bytes]:
    """What vLLM streams, an unknown field and a usage chunk included."""

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": MODEL,
                "choices": [choice],
                "prompt_token_ids": None,
            }
        )

    middle = [chunk({"content": f"tok{i} é "}) for i in range(TOKENS)]
    tail = [
        chunk({}, "stop"),
        sse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": MODEL,
                "choices": [],
                "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
            }
        ),
    ]
    return [chunk({"role": "assistant", "content": ""}), *middle, *tail, b"data: [DONE]\n\n"]


WHOLE = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                    ],
                },
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        "kv_transfer_params": None,
    },
    indent=1,  # bytes that no serializer would make by chance
).encode()

BAD_REQUEST = b'{"error": {"message": "the instance says no", "type": "BadRequestError", "code": 400}}'
ENGINE_ERROR = {
    "error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}
}


class FakeInstance:
    """A tiny OpenAI server; ``behaviour`` names how it answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.behaviour = "serve"
        self.healthy = True
        self.models = [MODEL]
        self.delay_s = 0.0
        self.received: list[tuple[CIMultiDict[str], bytes, str]] = []
        self.aborted = 0
        self.active = 0
        self.url = ""
        self.runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self.generate)
        app.router.add_post("/v1/completions", self.generate)
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_get("/health", self.health)
        self.runner, self.url = await run_app(app)

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def list_models(self, request: web.Request) -> web.Response:
        data = [
            {"id": model, "object": "model", "max_model_len": 4096, "x": self.name} for model in self.models
        ]
        return web.json_response({"object": "list", "data": data})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.received.append((request.headers.copy(), body, request.path_qs))
        self.active += 1
        try:
            return await getattr(self, f"_{self.behaviour}")(request, json.loads(body))
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.active -= 1

    async def _serve(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(self.delay_s)
        if not body.get("stream"):
            return web.Response(body=WHOLE, content_type="application/json", headers={"X-Engine": "v1"})
        return await self._write(request, chat_chunks())

    async def _slow_stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await self._write(request, chat_chunks() * 1000, pause_s=0.02)

    async def _flood(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await self._write(request, [sse({"x": "y" * 2**16})] * 1000)

    async def _headers_then_hang(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await self._write(request, [])
        await asyncio.sleep(60)
        raise AssertionError("nobody came")

    async def _hang(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("nobody came")

    async def _stall(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await self._write(request, chat_chunks()[:3])
        await asyncio.sleep(60)
        raise AssertionError("nobody came")

    async def _die_first(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _die_after_head(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = await self._write(request, [])
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _die_in_whole(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "9999"})
        await response.prepare(request)
        await response.write(WHOLE[:50])
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _die_in_event(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Three whole events, then half of one, then the plug is pulled."""
        response = await self._write(request, [*chat_chunks()[:3], chat_chunks()[3][:20]], pause_s=0.05)
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _engine_error(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await self._write(request, [sse(ENGINE_ERROR), b"data: [DONE]\n\n"])

    async def _refuse(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=400, body=BAD_REQUEST, content_type="application/json")

    async def _fail(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(ENGINE_ERROR, status=500)

    async def _garbage(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"\x00\x01 this is not HTTP \xff\r\n\r\n")
        request.transport.close()
        return web.Response()

    async def _write(
        self, request: web.Request, chunks: list[bytes], pause_s: float = 0.0
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(pause_s)
        return response


class FakePredictor:
    """Answers what it is told to; remembers what it was told."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.behaviour = "answer"
        self.e2e_s = 1.0
        self.slow_s = 0.6
        self.refuses_commits = False
        self.refused = 0
        self.questions: list[PredictRequest] = []
        self.committed: list[str] = []
        self.released: list[str] = []
        self.url = ""
        self.runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/predict", self.predict)
        app.router.add_post("/v1/commit", self.commit)
        app.router.add_post("/v1/release", self.release)
        self.runner, self.url = await run_app(app)

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()

    async def predict(self, request: web.Request) -> web.Response:
        self.questions.append(msgspec.json.decode(await request.read(), type=PredictRequest))
        if self.behaviour.startswith("slow"):
            await asyncio.sleep(self.slow_s)
        if self.behaviour in ("broken", "slow and broken"):
            return web.Response(status=500)
        if self.behaviour == "damaged":
            return web.Response(body=b'{"instance": "a", "prediction": 1e999')
        name = "someone-else" if self.behaviour == "misplaced" else self.instance
        return web.Response(body=msgspec.json.encode(self.answer(name)), content_type="application/json")

    def answer(self, name: str) -> PredictResponse:
        prediction = Prediction(0.1, self.e2e_s, 0.01, 0.0, 0.0, 0, 0.001, "test@0", 1.0)
        spread = PredictionSpread(1, 0.0, prediction.ttft_s, 0.0, prediction.e2e_s)
        return PredictResponse(name, prediction, spread, EngineLoad(1, 0, 0, 100, 200, 0, 50), 7)

    async def commit(self, request: web.Request) -> web.Response:
        if self.refuses_commits:
            self.refused += 1
            return web.Response(status=500)
        message = msgspec.json.decode(await request.read(), type=CommitRequest)
        self.committed.append(message.candidate.id)
        return web.Response()

    async def release(self, request: web.Request) -> web.Response:
        self.released.append(msgspec.json.decode(await request.read(), type=ReleaseRequest).id)
        return web.Response()


async def run_app(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}"


class Scheduler:
    """The real service under uvicorn, httptools and uvloop, in a thread of its own."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.app = create_app(config)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(
            uvicorn.Config(
                self._entry,
                interface="asgi3",
                http="httptools",
                loop="uvloop",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    async def _entry(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop = asyncio.get_running_loop()
        await self.app(scope, receive, send)

    async def start(self) -> None:
        self.thread.start()
        await until(lambda: self.server.started)

    async def stop(self) -> None:
        self.server.should_exit = True
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


@pytest_asyncio.fixture
async def world() -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """Factory: ``await world(instances=2, predictors=True, **settings)``."""
    made = World()

    async def make(instances: int = 2, predictors: bool = False, **settings: Any) -> World:
        for name in "abcdefgh"[:instances]:
            made.instances[name] = FakeInstance(name)
            await made.instances[name].start()
            if predictors:
                made.predictors[name] = FakePredictor(name)
                await made.predictors[name].start()
        made.scheduler = Scheduler(made.configure(settings))
        await made.scheduler.start()
        return made

    yield make
    await made.stop()


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
def expected_stream() -> bytes:
    return b"".join(chat_chunks())


@pytest.fixture
def expected_whole() -> bytes:
    return WHOLE
