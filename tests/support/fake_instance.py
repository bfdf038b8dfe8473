"""A fake that behaves like a vLLM server, or misbehaves as told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from local_app import run_app
from multidict import CIMultiDict
from openai_answers import (
    BAD_REQUEST,
    ENGINE_ERROR,
    MODEL,
    RESPONSE,
    WHOLE,
    chat_chunks,
    embeddings,
    response_events,
    sse,
)


class FakeInstance:
    """A tiny OpenAI server; ``behaviour`` names how it answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.behaviour = "serve"
        self.healthy = True
        self.models = [MODEL]
        self.keys: set[str | None] = set()
        """Brought by those who polled it."""
        self.delay_s = 0.0
        self.received: list[tuple[CIMultiDict[str], bytes, str]] = []
        self.aborted = 0
        self.written = 0
        """Parts of streams that were taken from it."""
        self.active = 0
        self.url = ""
        self.runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self.generate)
        app.router.add_post("/v1/completions", self.generate)
        app.router.add_post("/v1/responses", self.generate)
        app.router.add_post("/v1/embeddings", self.generate)
        app.router.add_post("/tokenize", self.generate)
        app.router.add_post("/v1/audio/transcriptions", self.transcribe)
        app.router.add_get("/v1/models", self.list_models)
        app.router.add_get("/health", self.health)
        self.runner, self.url = await run_app(app)

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    def stop_accepting(self) -> tuple[str, int]:
        """Where it listens: connections that are open go on, and there is room for one more to wait."""
        assert self.runner is not None
        (site,) = self.runner.sites
        (listener,) = site._server.sockets
        asyncio.get_running_loop().remove_reader(listener.fileno())
        with listener.dup() as same:
            same.listen(0)
        return listener.getsockname()

    async def health(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("Authorization"))
        return web.Response(status=200 if self.healthy else 503)

    async def list_models(self, request: web.Request) -> web.Response:
        data = [
            {"id": model, "object": "model", "max_model_len": 4096, "x": self.name} for model in self.models
        ]
        return web.json_response({"object": "list", "data": data})

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        self.received.append((request.headers.copy(), await request.read(), request.path_qs))
        return web.json_response({"text": "heard"})

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

    async def _embed(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(embeddings(body["input"], packed=body.get("encoding_format") == "base64"))

    async def _respond(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body.get("stream"):
            return await self._write(request, response_events())
        return web.json_response(RESPONSE)

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
            self.written += 1
            await asyncio.sleep(pause_s)
        return response
