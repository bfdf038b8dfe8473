"""The serving path: within the deadline, from the cache if it can, and wiser with each completion."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
from msgspec import structs

from block.config import SchedulerSettings
from block.errors import ConfigError, PredictorError
from length_estimation.batcher import Batcher, OneByOne
from length_estimation.estimator import ConstantEstimator, EstimationRequest, LengthEstimate
from length_estimation.factory import load_trained
from length_estimation.history import HistoryEstimator
from length_estimation.length_service import MOST_UNDER_WAY, LengthService
from length_estimation.quantiles import LEVELS
from length_estimation.recalibration import Recalibration
from length_estimation.service import create_app
from length_estimation.service_factory import make_length_service, make_source


class Slow:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0

    async def estimate(self, request: EstimationRequest) -> LengthEstimate:
        self.asked += 1
        await self.go.wait()
        return LengthEstimate.of(LEVELS, [100.0 + i for i in range(7)], request.max_tokens, "slow", "1")


def ask(prompt="hello", max_tokens=1000, model="m"):
    return EstimationRequest(3, max_tokens, prompt_json=json.dumps(prompt).encode(), model=model)


async def test_a_late_answer_is_not_waited_for_and_serves_the_next_request():
    slow = Slow()
    service = LengthService(quick=HistoryEstimator(256), slow=slow.estimate, deadline_s=0.02)
    started_s = time.perf_counter()
    first = await service.estimate("1", ask())
    assert time.perf_counter() - started_s < 0.3
    assert first.source == "history"
    slow.go.set()
    await asyncio.sleep(0.01)
    second = await service.estimate("2", ask(max_tokens=101))
    assert (second.source, slow.asked) == ("slow", 1)
    assert second.quantiles[-1][1] == 101
    assert (service.tally.late, service.tally.cached) == (1, 1)
    await service.close()


async def test_a_reset_asks_anew():
    slow = Slow()
    slow.go.set()
    service = LengthService(quick=HistoryEstimator(256), slow=slow.estimate, deadline_s=5)
    for reset, asked in ((False, 1), (False, 1), (True, 2)):
        if reset:
            service.reset("m")
        await service.estimate("1", ask())
        assert slow.asked == asked
    await service.close()


async def test_one_question_for_requests_with_the_same_prompt_at_the_same_time():
    slow = Slow()
    service = LengthService(quick=HistoryEstimator(256), slow=slow.estimate, deadline_s=5)
    waiting = [asyncio.create_task(service.estimate(str(i), ask())) for i in range(9)]
    await asyncio.sleep(0)
    slow.go.set()
    assert {estimate.source for estimate in await asyncio.gather(*waiting)} == {"slow"}
    assert slow.asked == 1
    await service.close()


async def test_failures_and_floods_fall_back_at_once():
    async def broken(_request):
        raise PredictorError("down")

    service = LengthService(quick=HistoryEstimator(256), slow=broken, deadline_s=5)
    assert (await service.estimate("1", ask())).source == "history"
    assert service.tally.failed == 1
    flooded = LengthService(quick=HistoryEstimator(256), slow=Slow().estimate, deadline_s=0.001)
    for i in range(MOST_UNDER_WAY + 3):
        await flooded.estimate(str(i), ask(str(i)))
    assert flooded.tally.refused == 3
    await flooded.close()


async def test_completions_teach_history_and_recalibration_but_never_mix_them():
    slow = Slow()
    slow.go.set()
    recalibration = Recalibration()
    service = LengthService(
        quick=HistoryEstimator(256), slow=slow.estimate, recalibration=recalibration, deadline_s=5
    )
    for i in range(200):
        await service.estimate(str(i), ask(str(i)))
        service.completed(str(i), 300)
    assert (await service.estimate("n", ask("new"))).median_tokens == pytest.approx(300, rel=0.05)
    slow.go.clear()
    service._deadline_s = 0.001
    fallback = await service.estimate("late", ask("another"))
    assert (fallback.source, fallback.version) == ("history", "200")
    assert fallback.median_tokens == pytest.approx(300, rel=0.2)
    service.completed("late", 5)
    assert recalibration._windows["m"].count == 200
    service.reset("m")
    slow.go.set()
    service._deadline_s = 5
    assert (await service.estimate("x", ask("third"))).median_tokens == pytest.approx(103)
    await service.close()


async def test_what_was_never_asked_or_was_abandoned_teaches_nothing():
    service = LengthService(quick=HistoryEstimator(256), cache_entries=0)
    await service.estimate("a", ask())
    service.abandoned("a")
    service.completed("a", 10)
    service.completed("b", 10)
    assert service.tally.learned == 0


async def test_the_scheduler_s_settings_make_the_service(features_folder):
    settings = SchedulerSettings.model_validate(
        {"estimator": "features", "lengths": {"model": str(features_folder)}}
    )
    service = make_length_service(make_source(settings), settings, None)
    first = await service.estimate("1", ask("Write a long essay about tea."))
    await service.estimate("2", ask("Write a long essay about tea."))
    await service.estimate("3", structs.replace(ask("Write a long essay about tea."), prompt_tokens=300))
    assert (first.source, service.tally.cached) == ("features", 1)  # with tools it is another request
    with pytest.raises(ConfigError, match=r"set lengths\.url"):
        make_source(SchedulerSettings(estimator="remote"))
    plain = SchedulerSettings(estimator="max_tokens")
    service = make_length_service(make_source(plain), plain, None)
    assert [(await service.estimate("x", ask(max_tokens=n))).mean_tokens for n in (9, 5)] == [9, 5]


async def test_who_asks_during_a_batch_is_in_the_next_one():
    sizes = []

    class Counting(OneByOne):
        def estimate_all(self, requests):
            sizes.append(len(requests))
            time.sleep(0.05)
            return super().estimate_all(requests)

    batcher = Batcher(Counting(ConstantEstimator(5)), most=8)
    answers = await asyncio.gather(*(batcher.estimate(ask(max_tokens=1 + i % 4)) for i in range(20)))
    assert [int(answer.mean_tokens) for answer in answers] == [1, 2, 3, 4] * 5
    assert sizes == [8, 8, 4]
    await batcher.close()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, IndexError, PredictorError])
async def test_a_failing_estimator_fails_its_batch_only(error):
    class Moody(OneByOne):
        def estimate_all(self, requests):
            if any(request.max_tokens == 1 for request in requests):
                raise error("no")
            return super().estimate_all(requests)

    batcher = Batcher(Moody(ConstantEstimator(5)), most=1)
    bad, good = await asyncio.gather(
        batcher.estimate(ask(max_tokens=1)), batcher.estimate(ask()), return_exceptions=True
    )
    assert isinstance(bad, PredictorError)
    assert good.mean_tokens == 5
    await batcher.close()


async def test_the_service_answers_over_http_what_the_model_says(features_folder):
    app = create_app(features_folder)
    asked = ask("Name tea, item 7.")
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://lengths") as client:
            prompt = {"prompt": "Name tea, item 7.", "max_tokens": 1000, "model": "m", "prompt_tokens": 3}
            chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
            body = {"requests": [prompt, chat]}
            answer = (await client.post("/v1/estimate", json=body)).json()["estimates"]
            broken = b'{"requests": [{"max_tokens": 5, "prompt": "\xff\xfe"}]}'
            assert (await client.post("/v1/estimate", content=broken)).status_code == 200
            assert (await client.post("/v1/estimate", content=b"{")).status_code == 400
            for text in (r"\ud800", r"tea \udc00\ud83d\ude00", r"\ud800\ud800\udc00"):
                halves = broken.replace(b"\xff\xfe", text.encode())
                assert (await client.post("/v1/estimate", content=halves)).status_code == 200
            assert (await client.get("/v1/card")).json()["kind"] == "features"
            assert (await client.get("/health")).json()["answered"] == 6
            counted = (await client.get("/metrics")).text.splitlines()
    assert "block_length_estimates_total 6.0" in counted
    assert 'block_length_refused_total{status="400"} 1.0' in counted
    assert any(line.startswith('block_length_model_info{kind="features"') for line in counted)
    expected = load_trained(features_folder).estimate(asked)
    assert answer[0]["mean_tokens"] == pytest.approx(expected.mean_tokens)
    assert answer[1]["quantiles"][-1][1] <= 9


async def test_of_a_body_that_is_too_large_no_more_is_taken_in_than_that(features_folder):
    taken = 0

    async def flood():
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b" " * 2**20

    app = create_app(features_folder)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://lengths") as client:
            assert (await client.post("/v1/estimate", content=flood())).status_code == 413
    assert taken < 100
