"""A small HTTP service for one trained model: ``POST /v1/estimate`` with dynamic batching."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from block.errors import PredictorError, RequestError
from length_estimation.batcher import Batcher
from length_estimation.estimator import EstimationRequest
from length_estimation.factory import load_trained
from length_estimation.messages import (
    ESTIMATE_PATH,
    EstimateAnswer,
    EstimateAnswers,
    EstimateBatch,
    EstimateRequest,
)
from length_estimation.model_folder import Card, peek_card
from length_estimation.service_factory import batcher_of
from length_estimation.service_metrics import LengthMetrics
from length_estimation.token_counter import TokenCounter, make_token_counter

MOST_REQUESTS: Final = 1024
"""In one call."""
MOST_BODY_BYTES: Final = 64 * 2**20
_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE: Final = re.compile(f"{_HIGH}(?!{_LOW})|(?<!{_HIGH}){_LOW}")
"""As JSON writes it; a parser takes the whole message for damaged."""


class LengthEndpoint:
    """The routes, on one model."""

    def __init__(self, card: Card, batcher: Batcher, counter: TokenCounter) -> None:
        self._metrics = LengthMetrics(card.kind, card.model, batcher)
        self._card = card
        self._batcher = batcher
        self._counter = counter
        self._batches = msgspec.json.Decoder(EstimateBatch)

    async def estimate(self, request: Request) -> Response:
        """Distributions in the order of the requests."""
        began_s = time.perf_counter()
        try:
            asked = self._read(await _body_of(request))
            said = await asyncio.gather(*map(self._batcher.estimate, asked))
        except RequestError as error:
            return self._refusal(error.status, error.message)
        except PredictorError as error:
            return self._refusal(503, str(error))
        self._metrics.answered(len(said), time.perf_counter() - began_s)
        return _json(EstimateAnswers(tuple(map(EstimateAnswer.of, said))))

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(self._metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def health(self) -> Response:
        """Which model this is, and how large its batches have been."""
        batches, answered = self._batcher.batches, self._batcher.answered
        mean = answered / batches if batches else 0.0
        return _json(
            {"kind": self._card.kind, "model": self._card.model, "answered": answered, "batch": mean}
        )

    async def card(self) -> Response:
        """The model's card."""
        return _json(self._card)

    def _read(self, body: bytes) -> list[EstimationRequest]:
        try:
            batch = self._batches.decode(_mended(body))
        except (ValueError, RecursionError) as error:
            raise RequestError(f"not an estimate request: {error}") from error
        if len(batch.requests) > MOST_REQUESTS:
            raise RequestError(
                f"{len(batch.requests)} requests in one call; at most {MOST_REQUESTS}", status=413
            )
        return [self._asked(each) for each in batch.requests]

    def _refusal(self, status: int, message: str) -> Response:
        self._metrics.refused(status)
        return _json({"error": {"message": message}}, status)

    def _asked(self, each: EstimateRequest) -> EstimationRequest:
        messages, prompt = bytes(each.messages), bytes(each.prompt)
        count = self._counter.messages if messages else self._counter.prompt
        prompt_json = messages or prompt
        known = each.prompt_tokens
        return EstimationRequest(
            prompt_tokens=count(prompt_json) if known is None else max(0, known),
            max_tokens=max(1, each.max_tokens),
            prompt_json=prompt_json,
            model=each.model,
            temperature=each.temperature,
        )


def create_app(model: Path, batch: int = 32, tokenizer: Path | None = None, threads: int = 1) -> FastAPI:
    """The service; ``threads`` compute a batch.

    Raises PackError for a damaged model, ConfigError for a bad tokenizer.
    """
    batcher = batcher_of(load_trained(model, threads), batch)
    endpoint = LengthEndpoint(peek_card(model), batcher, make_token_counter(tokenizer))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await batcher.close()

    app = FastAPI(title="block length estimation", lifespan=lifespan)
    app.post(ESTIMATE_PATH)(endpoint.estimate)
    app.get("/v1/card")(endpoint.card)
    app.get("/health")(endpoint.health)
    app.get("/metrics")(endpoint.metrics)
    return app


def _mended(body: bytes) -> str:
    """With replacements for broken UTF-8 and halves of pairs: in a prompt they are no reason to refuse."""
    text = body.decode("utf-8", "replace")
    return _LONE_SURROGATE.sub(r"\\ufffd", text) if "\\u" in text else text


async def _body_of(request: Request) -> bytes:
    """Raises RequestError for one that is too large, of which no more is taken in."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise RequestError("the body is too large", status=413)
    return bytes(body)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
