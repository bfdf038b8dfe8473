"""The side-car's HTTP app: routes to ``PredictorService`` and errors to status codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from block.config import PredictorConfig
from block.errors import BlockError, FeedError, StateError
from predictor.service import PredictorService, json_response

_STATUS = {FeedError: 503, StateError: 422}


def create_app(config: PredictorConfig) -> FastAPI:
    """One predictor; its feed is opened and closed with the app. Raises ConfigError for a bad model file."""
    service = PredictorService(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.following():
            yield

    app = FastAPI(title="block predictor", lifespan=lifespan)
    app.add_exception_handler(BlockError, _refuse)
    app.post("/v1/predict")(service.predict)
    app.post("/v1/predict/batch")(service.predict_batch)
    app.post("/v1/commit")(service.commit)
    app.post("/v1/release")(service.release)
    app.post("/v1/calibration/reset")(service.reset_calibration)
    app.get("/v1/state")(service.state)
    app.get("/health")(service.health)
    app.get("/metrics")(service.metrics)
    return app


async def _refuse(_: Request, error: Exception) -> Response:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
    body = {"error": {"type": type(error).__name__, "message": str(error)}}
    return json_response(body, status=status)
