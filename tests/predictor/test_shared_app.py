"""Several predictors behind one port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import zmq
import zmq.asyncio
from feed_messages import snapshot
from http_service import serving
from prometheus_client.parser import text_string_to_metric_families

from block.config import PredictorConfig, PredictorSettings
from block.operation import AccessSettings, SecretSource
from predictor.app import create_app
from predictor.shared_app import SharedApp

TABLE = Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml"
JSON = {"content-type": "application/json"}
CANDIDATE = {"id": "new", "prompt_tokens": 100, "output_tokens": 20, "max_tokens": 50}


def _shared(folder: Path, *, optional: bool = False, **settings: Any) -> SharedApp:
    configs = [
        PredictorConfig(
            instance=name,
            feed=f"ipc://{folder}/{name}",
            latency=TABLE,
            port=1,
            optional=optional,
            settings=PredictorSettings.model_validate(settings),
        )
        for name in "ab"
    ]
    return SharedApp({config.instance: create_app(config) for config in configs})


@asynccontextmanager
async def _told(folder: Path, **requests: int) -> AsyncIterator[None]:
    """Engines that have told of so many requests."""
    with zmq.asyncio.Context() as context:
        sockets = []
        for name, count in requests.items():
            socket = context.socket(zmq.XPUB)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(f"ipc://{folder}/{name}")
            sockets.append(socket)
            await asyncio.wait_for(socket.recv(), 5)
            ids = [f"chatcmpl-{number}-00000000" for number in range(count)]
            await socket.send(msgspec.msgpack.encode(snapshot(ids, time.time())))
        yield
        for socket in sockets:
            socket.close()


@asynccontextmanager
async def _asking(folder: Path, **requests: int) -> AsyncIterator[httpx.AsyncClient]:
    """A client of two predictors, whose engines have told of so many requests."""
    async with (
        serving(_shared(folder)) as url,
        httpx.AsyncClient(base_url=url) as client,
        _told(folder, **requests),
    ):
        await _until_ready(client, *requests)
        yield client


async def _until_ready(client: httpx.AsyncClient, *names: str) -> None:
    deadline_s = time.monotonic() + 5
    for name in names:
        while (await client.get(f"/of/{name}/health")).status_code != 200:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.01)


def _question(*own: dict[str, Any], **further: Any) -> dict[str, Any]:
    return {"candidate": CANDIDATE, "questions": list(own), **further}


async def test_one_exchange_asks_all_and_each_answers_as_if_it_were_alone(tmp_path: Path) -> None:
    async with _asking(tmp_path, a=1, b=3) as client:
        reply = await client.post(
            "/v1/predict/shared", json=_question({"instance": "b"}, {"instance": "a"}, wanted="times")
        )
        answers = {answer["instance"]: answer for answer in reply.json()["answers"]}
        assert list(answers) == ["b", "a"]
        assert [answers[name]["load"]["waiting"] + answers[name]["load"]["running"] for name in "ab"] == [
            1,
            3,
        ]
        for name in "ab":
            alone = await client.post(
                f"/of/{name}/v1/predict", json={"candidate": CANDIDATE, "wanted": "times"}
            )
            assert alone.json()["instance"] == name
            assert alone.json()["load"] == answers[name]["load"]
            e2e_s = [each["prediction"]["e2e_s"] for each in (alone.json(), answers[name])]
            assert e2e_s[0] == pytest.approx(e2e_s[1], abs=0.2)  # asked a little later


async def test_what_is_one_instances_own_stays_its_own(tmp_path: Path) -> None:
    """A choice carried along counts at that instance; a cached prefix shortens that prediction."""
    earlier = {"id": "earlier", "prompt_tokens": 50, "output_tokens": 20, "max_tokens": 50}
    async with _asking(tmp_path, a=1, b=1) as client:
        own = [{"instance": "a", "committed": [earlier]}, {"instance": "b"}]
        reply = await client.post("/v1/predict/shared", json=_question(*own))
        assert [answer["load"]["committed"] for answer in reply.json()["answers"]] == [1, 0]


async def test_a_predictor_without_a_state_leaves_the_others_theirs(tmp_path: Path) -> None:
    async with _asking(tmp_path, b=1) as client:
        own = [{"instance": "a"}, {"instance": "b"}, {"instance": "stranger"}]
        reply = await client.post("/v1/predict/shared", json=_question(*own))
        assert reply.status_code == 200
        assert [answer["instance"] for answer in reply.json()["answers"]] == ["b"]


async def test_what_it_cannot_read_or_find_is_said(tmp_path: Path) -> None:
    async with serving(_shared(tmp_path)) as url, httpx.AsyncClient(base_url=url) as client:
        damaged = await client.post("/v1/predict/shared", content=b"{", headers=JSON)
        assert damaged.status_code == 422
        for path in ("/v1/state", "/of/c/health", "/of", "/v1/predict"):
            missing = await client.get(path)
            assert missing.status_code == 404
            assert "/of/a, /of/b" in missing.json()["error"]["message"]


async def test_keys_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEYS", "the-right-key")
    access = AccessSettings(keys=SecretSource(env="THE_KEYS"))
    async with (
        serving(_shared(tmp_path, access=access.model_dump())) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        for headers, status in (({}, 401), ({"authorization": "Bearer the-right-key"}, 200)):
            reply = await client.post(
                "/v1/predict/shared", json=_question({"instance": "a"}), headers=headers
            )
            assert reply.status_code == status
        assert (await client.post("/of/a/v1/predict", json={"candidate": CANDIDATE})).status_code == 401
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/health")).status_code == 503


async def test_one_health_page_speaks_for_all_and_names_who_is_ill(tmp_path: Path) -> None:
    async with _asking(tmp_path, b=1) as client:
        page = await client.get("/health")
        assert page.status_code == 503
        assert page.json()["status"] == "not ready: a"
        assert page.json()["instances"]["b"] == "ok"
        assert "no word from it yet" in page.json()["instances"]["a"]
    async with _asking(tmp_path, a=1, b=1) as client:
        page = await client.get("/health")
        assert (page.status_code, page.json()) == (200, {"status": "ok", "instances": {"a": "ok", "b": "ok"}})


async def test_one_scrape_has_every_instances_series_each_family_in_one_piece(tmp_path: Path) -> None:
    async with _asking(tmp_path, a=1, b=3) as client:
        await client.post("/v1/predict/shared", json=_question({"instance": "a"}, {"instance": "b"}))
        await client.post("/v1/predict/shared", json=_question({"instance": "b"}))
        page = (await client.get("/metrics")).text
        families = list(text_string_to_metric_families(page))
        names = [family.name for family in families]
        assert len(names) == len(set(names))
        assert page.count("# TYPE block_prediction_seconds ") == 1
        samples = [sample for family in families for sample in family.samples]
        series = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
        assert len(series) == len(set(series))
        assert {sample.labels["instance"] for sample in samples} == {"a", "b"}
        asked = [sample for sample in samples if sample.name == "block_prediction_seconds_count"]
        counts = {sample.labels["instance"]: sample.value for sample in asked}
        assert counts == {"a": 1, "b": 2}
        for name in "ab":
            alone = text_string_to_metric_families((await client.get(f"/of/{name}/metrics")).text)
            own = {s.labels["instance"] for family in alone for s in family.samples}
            assert own == {name}


async def test_of_an_engine_that_may_be_away_nothing_is_said_until_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(_shared(tmp_path, optional=True)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        page = await client.get("/health")
        assert (page.status_code, page.json()["instances"]) == (200, {})
        assert 'instance="' not in (await client.get("/metrics")).text
        async with _told(tmp_path, b=1):
            await _until_ready(client, "b")
            assert (await client.get("/health")).json()["instances"] == {"b": "ok"}
            metrics = (await client.get("/metrics")).text
            assert 'block_predictor_ready{instance="b"} 1.0' in metrics
            assert 'instance="a"' not in metrics
        monkeypatch.setattr("predictor.service.ABSENT_AFTER_S", 0.0)
        assert (await client.get("/health")).json()["instances"] == {}
