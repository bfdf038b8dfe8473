"""A length service elsewhere: asked over HTTP, and never believed unseen."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from block.errors import PredictorError
from block.http.client import Client
from length_estimation.estimator import EstimationRequest
from length_estimation.factory import load_trained
from length_estimation.remote import RemoteEstimator
from length_estimation.service import create_app

ASKED = EstimationRequest(3, 1000, prompt_json=json.dumps("Name tea, item 7.").encode(), model="m")


@asynccontextmanager
async def asking(app: Any, prefix: str = "") -> AsyncIterator[RemoteEstimator]:
    """A remote estimator whose other end is ``app``."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        http = Client(connect_s=5, rest_s=4)
        yield RemoteEstimator(http, f"http://127.0.0.1:{listening.getsockname()[1]}{prefix}")
        await http.close()
        server.should_exit = True
        await serving


async def test_the_estimate_is_the_service_s(features_folder):
    async with asking(create_app(features_folder)) as remote:
        first, second = await remote.estimate(ASKED), await remote.estimate(ASKED)
    expected = load_trained(features_folder).estimate(ASKED)
    assert first == second
    assert (first.source, first.version) == (expected.source, expected.version)
    assert first.mean_tokens == pytest.approx(expected.mean_tokens)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"estimates": []}, "0 answers to one question"),
        ({"estimates": 5}, "ValidationError"),
        (
            {
                "estimates": [
                    {
                        "mean_tokens": 5,
                        "quantiles": [[0.5, 5.0], [0.1, 9.0]],
                        "source": "x",
                        "version": "",
                        "unbounded": [5.0, 9.0],
                    }
                ]
            },
            "quantile",
        ),
    ],
)
async def test_an_answer_that_is_no_distribution_is_a_failure(answer, said):
    app = FastAPI()
    app.post("/below/v1/estimate")(lambda: answer)
    async with asking(app, "/below/") as remote:
        with pytest.raises(PredictorError, match=said):
            await remote.estimate(ASKED)


async def test_a_refusal_and_nobody_there_are_failures():
    async with asking(FastAPI()) as remote:
        with pytest.raises(PredictorError, match="status 404"):
            await remote.estimate(ASKED)
    http = Client(connect_s=1, rest_s=4)
    with pytest.raises(PredictorError, match="ConnectError"):
        await RemoteEstimator(http, "http://127.0.0.1:1").estimate(ASKED)
    await http.close()
