"""A fake that behaves like a predictor, or misbehaves as told."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web
from local_app import run_app

from block.messages import CommitRequest, PredictRequest, PredictResponse, ReleaseRequest
from block.types import EngineLoad, Prediction, PredictionSpread


class FakePredictor:
    """Answers what it is told to; remembers what it was told."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.behaviour = "answer"
        self.e2e_s = 1.0
        self.harm_s = 0.0
        self.slow_s = 0.6
        self.refuses_commits = False
        self.refused = 0
        self.questions: list[PredictRequest] = []
        self.keys: set[str | None] = set()
        """Brought by those who asked."""
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
        self.keys.add(request.headers.get("Authorization"))
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
        prediction = Prediction(0.1, self.e2e_s, 0.01, self.harm_s, self.harm_s, 0, 0.001, "test@0", 1.0)
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
