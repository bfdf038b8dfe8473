"""The predictor over HTTP, fed by a real ZMQ publisher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
import zmq
import zmq.asyncio
from feed_messages import snapshot
from http_service import serving
from step_traffic import Traffic

from block.config import PredictorConfig, PredictorSettings
from block.latency.load import load_latency
from block.messages import FEED_VERSION, Clockwork, Delta
from block.operation import AccessSettings, SecretSource
from predictor.app import create_app

TABLE = Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml"
JSON = {"content-type": "application/json"}
CANDIDATE = {"id": "new", "prompt_tokens": 100, "output_tokens": 20, "max_tokens": 50}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    config = PredictorConfig(instance="i0", feed=f"ipc://{tmp_path}/feed", latency=TABLE, port=1)
    async with serving(create_app(config)) as url, httpx.AsyncClient(base_url=url) as client:
        yield client


@pytest.fixture
async def feed(tmp_path: Path) -> AsyncIterator[zmq.asyncio.Socket]:
    with zmq.asyncio.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(f"ipc://{tmp_path}/feed")
        yield socket


async def _publish(socket: zmq.asyncio.Socket, ids: list[str]) -> None:
    await asyncio.wait_for(socket.recv(), 5)
    await socket.send(msgspec.msgpack.encode(snapshot(ids, time.time())))


async def _publish_steps(socket: zmq.asyncio.Socket, slower: float) -> None:
    """One delta with a minute's steps, each ``slower`` times what the model file says."""
    model = load_latency(TABLE)
    steps = tuple(Traffic(1).records(lambda shape: slower * model.seconds(shape), 60))
    clock = Clockwork(10, time.time(), 1052, 0, finished_steps=steps)
    await socket.send(msgspec.msgpack.encode(Delta(FEED_VERSION, 2, "engine", clock)))


async def _until_learned(client: httpx.AsyncClient) -> dict:
    deadline_s = time.monotonic() + 5
    while True:
        state = (await client.get("/v1/state")).json()
        if state["calibration"]["samples"] > 0:
            return state
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


async def _ready(client: httpx.AsyncClient) -> None:
    deadline_s = time.monotonic() + 5
    while (await client.get("/health")).status_code != 200:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


async def test_answers_once_the_feed_has_spoken(client, feed) -> None:
    silent = await client.post("/v1/predict", json={"candidate": CANDIDATE})
    assert silent.status_code == 503
    assert "feed" in silent.json()["error"]["message"]
    assert (await client.get("/health")).status_code == 503
    await _publish(feed, ["chatcmpl-a-00000000"])
    await _ready(client)
    answer = (await client.post("/v1/predict", json={"candidate": CANDIDATE})).json()
    assert answer["instance"] == "i0"
    assert 0 < answer["prediction"]["ttft_s"] < answer["prediction"]["e2e_s"]
    assert answer["load"]["running"] == 1
    state = (await client.get("/v1/state")).json()
    assert state["ready"] is True
    assert state["state_step"] == 9


async def _health_of(feed: str, caplog: pytest.LogCaptureFixture) -> str:
    """What ``/health`` says once following ``feed`` has failed."""
    app = create_app(PredictorConfig(instance="i0", feed=feed, latency=TABLE, port=1))
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as client, asyncio.timeout(5):
        while "i0: following the engine's state feed failed" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        answer = await client.get("/health")
    assert answer.status_code == 503
    return str(answer.json()["status"])


async def test_a_feed_that_cannot_be_followed_is_said_to_be_so(caplog) -> None:
    assert "feed address 'tcp://nonsense': cannot be used" in await _health_of("tcp://nonsense", caplog)
    assert "Traceback" in caplog.text


async def test_an_error_while_following_is_logged_and_shown(feed, tmp_path, caplog, monkeypatch) -> None:
    def fail(self: object, now_s: float) -> None:
        raise ZeroDivisionError("a defect of ours")

    monkeypatch.setattr("predictor.service.Forecaster.notice", fail)
    publishing = asyncio.create_task(_publish(feed, []))
    assert "a defect of ours" in await _health_of(f"ipc://{tmp_path}/feed", caplog)
    assert "ZeroDivisionError" in caplog.text
    await publishing


async def test_commit_and_release(client, feed) -> None:
    await _publish(feed, [])
    await _ready(client)
    assert (await client.post("/v1/commit", json={"candidate": CANDIDATE})).status_code == 204
    assert (await client.get("/v1/state")).json()["load"]["committed"] == 1
    assert (await client.post("/v1/release", json={"id": "new"})).status_code == 204
    assert (await client.get("/v1/state")).json()["load"]["committed"] == 0


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"candidate": 3}', b'{"candidate": {"id": "a"}}', b"\xff\xfe"]
)
async def test_bad_questions_are_refused(client, feed, body: bytes) -> None:
    await _publish(feed, [])
    await _ready(client)
    answer = await client.post("/v1/predict", content=body, headers=JSON)
    assert answer.status_code == 422
    assert "PredictRequest" in answer.json()["error"]["message"]


@pytest.mark.parametrize("field", ["prompt_tokens", "output_tokens", "max_tokens", "priority"])
async def test_commitments_beyond_the_simulations_integers_are_refused(client, feed, field: str) -> None:
    await _publish(feed, [])
    await _ready(client)
    answer = await client.post("/v1/commit", json={"candidate": {**CANDIDATE, field: 2**63}})
    assert answer.status_code == 422
    assert field in answer.json()["error"]["message"] or "out of range" in answer.json()["error"]["message"]
    assert (await client.post("/v1/predict", json={"candidate": CANDIDATE})).status_code == 200


@pytest.mark.parametrize("field", ["prompt_tokens", "output_tokens", "max_tokens"])
@pytest.mark.parametrize("tokens", [0, -5])
async def test_counts_below_one_are_refused_by_name(client, feed, field: str, tokens: int) -> None:
    await _publish(feed, [])
    await _ready(client)
    for path in ("/v1/commit", "/v1/predict"):
        answer = await client.post(path, json={"candidate": {**CANDIDATE, field: tokens}})
        assert answer.status_code == 422
        assert f"$.candidate.{field}" in answer.json()["error"]["message"]


async def test_a_bad_state_leaves_the_last_good_one_and_is_told(client, feed) -> None:
    await _publish(feed, [])
    await _ready(client)
    bad = snapshot(["a"], time.time())
    facts = msgspec.structs.replace(bad.requests[0], max_tokens=2**63)
    await feed.send(msgspec.msgpack.encode(msgspec.structs.replace(bad, requests=(facts,))))
    deadline_s = time.monotonic() + 5
    while (health := await client.get("/health")).status_code == 200:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)
    assert "max_tokens: 9223372036854775808" in health.json()["status"]
    assert "the last good state, of step 9, is 0." in health.json()["status"]
    assert (await client.post("/v1/predict", json={"candidate": CANDIDATE})).status_code == 503
    assert (await client.get("/v1/state")).json()["load"]["running"] == 0
    await feed.send(msgspec.msgpack.encode(snapshot(["a"], time.time(), seq=3)))
    await _ready(client)


async def test_impossible_candidates_are_refused(client, feed) -> None:
    await _publish(feed, [])
    await _ready(client)
    answer = await client.post("/v1/predict", json={"candidate": {**CANDIDATE, "prompt_tokens": -3}})
    assert answer.status_code == 422
    assert "prompt_tokens" in answer.json()["error"]["message"]


async def test_metrics_count_predictions(client, feed) -> None:
    await _publish(feed, [])
    await _ready(client)
    await client.post("/v1/predict", json={"candidate": CANDIDATE})
    page = (await client.get("/metrics")).text
    assert 'block_predictor_ready{instance="i0"} 1.0' in page
    assert 'block_feed_age_seconds{instance="i0"}' in page
    assert 'block_prediction_seconds_count{instance="i0"} 1.0' in page


async def test_a_batch_answers_every_candidate_on_its_own(client, feed) -> None:
    await _publish(feed, ["chatcmpl-a-00000000"])
    await _ready(client)
    others = [{**CANDIDATE, "id": "long", "prompt_tokens": 900}, CANDIDATE]
    answers = (
        await client.post("/v1/predict/batch", json={"candidates": [CANDIDATE, *others], "scenarios": 4})
    ).json()["answers"]
    first, long, again = (answer["prediction"] for answer in answers)
    assert first["ttft_s"] < long["ttft_s"]
    assert first["ttft_s"] == pytest.approx(again["ttft_s"], abs=0.001)
    assert answers[0]["spread"]["scenarios"] == 4


@pytest.mark.parametrize("scenarios", [0, -1, 10_000])
async def test_unreasonable_numbers_of_scenarios_are_refused(client, feed, scenarios: int) -> None:
    await _publish(feed, [])
    await _ready(client)
    answer = await client.post("/v1/predict", json={"candidate": CANDIDATE, "scenarios": scenarios})
    assert answer.status_code == 422
    assert "scenarios" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "question", "named"),
    [
        ("/v1/predict/batch", {"candidates": [CANDIDATE] * 65, "scenarios": 64}, "scenarios = 4160"),
        (
            "/v1/predict",
            {"candidate": {**CANDIDATE, "output_quantiles": [[n / 2000, n] for n in range(1, 1100)]}},
            "output_quantiles",
        ),
    ],
)
async def test_questions_that_would_keep_it_from_others_are_refused(
    client, feed, path: str, question: dict, named: str
) -> None:
    await _publish(feed, [])
    await _ready(client)
    answer = await client.post(path, json=question)
    assert answer.status_code == 422
    assert named in answer.json()["error"]["message"]


async def test_step_times_are_learned_and_forgotten(client, feed) -> None:
    await _publish(feed, [])
    await _ready(client)
    before = (await client.post("/v1/predict", json={"candidate": CANDIDATE})).json()["prediction"]
    await _publish_steps(feed, slower=2.0)
    state = await _until_learned(client)
    assert state["model_version"] == state["calibration"]["version"] != before["model_version"]
    after = (await client.post("/v1/predict", json={"candidate": CANDIDATE})).json()["prediction"]
    assert after["model_version"] == state["model_version"]
    assert after["e2e_s"] == pytest.approx(2 * before["e2e_s"], rel=0.05)
    page = (await client.get("/metrics")).text
    assert f'block_model_info{{instance="i0",version="{state["model_version"]}"}} 1.0' in page
    assert 'block_calibration_step_overhead_seconds{instance="i0"}' in page
    assert (await client.post("/v1/calibration/reset")).status_code == 204
    reset = (await client.post("/v1/predict", json={"candidate": CANDIDATE})).json()["prediction"]
    assert reset["e2e_s"] == pytest.approx(before["e2e_s"])
    assert reset["model_version"] == before["model_version"]


async def test_unknown_paths_and_wrong_methods_are_told_apart(client) -> None:
    assert (await client.get("/nowhere")).status_code == 404
    answer = await client.get("/v1/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert (await client.post("/health")).headers["allow"] == "GET"


async def test_a_predictor_with_keys_answers_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREDICTOR_KEYS", "predictor-key")
    settings = PredictorSettings(access=AccessSettings(keys=SecretSource(env="PREDICTOR_KEYS")))
    config = PredictorConfig(
        instance="i0", feed=f"ipc://{tmp_path}/feed", latency=TABLE, port=1, settings=settings
    )
    async with serving(create_app(config)) as url, httpx.AsyncClient(base_url=url) as client:
        refused = await client.post("/v1/release", json={"id": "x"})
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/health")).status_code == 503  # there is no feed, but it may be asked
        client.headers["Authorization"] = "Bearer predictor-key"
        assert (await client.post("/v1/release", json={"id": "x"})).status_code == 204
