"""Requests as browsers send them for pages of other sites: predictors of this machine do nothing for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_service import serving

from block.config import PredictorConfig, PredictorSettings
from block.http.message import MOST_MADE, RequestHead
from block.http.plain import plain_request
from block.web_page import PageRule
from predictor.app import PredictorApp, create_app
from predictor.shared_app import SharedApp

TABLE = Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml"
JSON = {"content-type": "application/json"}
RELEASE = b'{"id": "x"}'


def predictor(folder: Path, name: str = "a", host: str = "127.0.0.1", **access: Any) -> PredictorApp:
    settings = PredictorSettings.model_validate({"access": access})
    feed = f"ipc://{folder}/{name}"
    config = PredictorConfig(instance=name, feed=feed, latency=TABLE, host=host, port=1, settings=settings)
    return create_app(config)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(predictor(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = SharedApp({name: predictor(tmp_path, name) for name in "ab"})
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


STRANGE = pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON | {"origin": "http://evil.example"}, 403),
        (JSON | {"origin": "null"}, 403),
        (JSON | {"sec-fetch-site": "cross-site"}, 403),
        (JSON | {"host": "evil.example:8200"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
    ],
)


@STRANGE
async def test_what_a_page_of_another_site_sends_changes_nothing(client, headers, status):
    for path in ("/v1/commit", "/v1/release", "/v1/predict", "/v1/predict/batch", "/v1/calibration/reset"):
        answer = await client.post(path, headers=headers, content=RELEASE)
        assert answer.status_code == status, path
        assert answer.json()["error"]["type"] == "RequestError"


@STRANGE
async def test_nor_does_it_where_predictors_share_a_port(shared, headers, status):
    for path in ("/of/b/v1/commit", "/of/a/v1/calibration/reset", "/v1/predict/shared"):
        assert (await shared.post(path, headers=headers, content=RELEASE)).status_code == status, path


def test_predictors_that_share_a_port_judge_a_head_once_however_many_they_are() -> None:
    text = b"POST /v1/predict/shared HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 0\r\n\r\n"
    request = plain_request(text, 1000, 1000)
    assert request is not None
    made: list[RequestHead] = []
    request.head.once(made.append)
    for _ in range(2 * MOST_MADE):
        refusal = PageRule("127.0.0.1", "settings.access.keys").refusal(request)
        assert refusal is not None
        assert refusal.code == "strange_host"
    request.head.once(made.append)
    assert len(made) == 1  # what else is made of it was not crowded out


async def test_a_page_needs_no_body_to_be_refused(client):
    headers = {"origin": "http://evil.example"}
    assert (await client.post("/v1/calibration/reset", headers=headers)).status_code == 403
    assert (await client.post("/v1/calibration/reset")).status_code == 204


async def test_a_page_that_has_its_name_lead_here_reads_nothing_of_the_engine(client):
    assert (await client.get("/v1/state", headers={"host": "evil.example"})).status_code == 403
    assert (await client.get("/v1/state")).status_code == 503  # there is no feed, but it may be asked
    for path in ("/health", "/metrics"):
        assert (await client.get(path, headers={"host": "evil.example"})).status_code in (200, 503)


@pytest.mark.parametrize(
    "headers", [JSON, {"content-type": "application/json; charset=utf-8", "host": "localhost:8200"}]
)
async def test_programs_of_this_machine_are_let_in(client, headers):
    assert (await client.post("/v1/release", headers=headers, content=RELEASE)).status_code == 204


async def test_whoever_brings_a_key_may_come_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("PREDICTOR_KEYS", "predictor-key")
    headers = JSON | {"host": "block.example", "origin": "https://console.example"}
    app = predictor(tmp_path, keys={"env": "PREDICTOR_KEYS"})
    async with serving(app) as url, httpx.AsyncClient(base_url=url, headers=headers) as client:
        assert (await client.post("/v1/release", content=RELEASE)).status_code == 401
        client.headers["authorization"] = "Bearer predictor-key"
        assert (await client.post("/v1/release", content=RELEASE)).status_code == 204


async def test_a_predictor_that_lets_anyone_in_is_asked_by_whatever_name_it_has(tmp_path):
    app = predictor(tmp_path, host="0.0.0.0", allow_anyone=True)
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/v1/release", headers=JSON | {"host": "gpu1:8200"}, content=RELEASE)
        assert answer.status_code == 204
