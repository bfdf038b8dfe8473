"""The metrics of a working scheduler: their conventions, what they say, and that nobody can flood them."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from block.config import InstanceConfig
from global_scheduler.fleet import Fleet
from global_scheduler.metrics import SchedulerMetrics

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}


async def families(fleet) -> dict[str, object]:
    answer = await fleet.http.get(f"{fleet.url}/metrics", headers=OPENMETRICS)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


async def test_names_and_units_are_as_openmetrics_wants_them(world, wait_until):
    """The parser refuses what breaks the format; the rest is what it only recommends."""
    fleet = await world(predictors=True, policy="block")
    for stream in (False, True):
        await fleet.chat(stream=stream)
    found = await families(fleet)
    assert len(found) > 20
    for name, family in found.items():
        assert family.documentation, name
        if "_seconds" in name and family.type == "histogram":
            assert (name.endswith("_seconds"), family.unit) == (True, "seconds"), name
        assert not name.endswith(("_ms", "_milliseconds", "_percent")), name
    assert found["gen_ai_server_request_duration_seconds"].type == "histogram"


async def test_a_scrape_without_wishes_gets_the_older_text(world):
    fleet = await world(instances=1)
    for accept in ("*/*", "text/plain; version=nonsense"):
        answer = await fleet.http.get(f"{fleet.url}/metrics", headers={"Accept": accept})
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "# EOF" not in answer.text
    odd = {"Accept": "application/openmetrics-text; version=nonsense"}
    assert "# EOF" in (await fleet.http.get(f"{fleet.url}/metrics", headers=odd)).text


async def test_predictions_are_held_against_what_came(world):
    fleet = await world(predictors=True, policy="block", estimator="oracle")
    for predictor in fleet.predictors.values():
        predictor.e2e_s = 5.0
    await fleet.chat(stream=True)
    assert await fleet.metric('block_prediction_error_seconds_bucket{le="3.0",quantity="e2e"}') == 0
    assert await fleet.metric('block_prediction_error_seconds_bucket{le="10.0",quantity="e2e"}') == 1
    assert await fleet.metric('block_prediction_error_ratio_bucket{le="+Inf",quantity="ttft"}') == 1
    name = "gen_ai_server_time_to_first_token_seconds_count"
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="vllm",gen_ai_request_model="llama"'
    assert await fleet.metric(f"{name}{{{labels}}}") == 1


async def test_decisions_are_counted_by_reason_and_fallback(world):
    fleet = await world(predictors=True, policy="block")
    await fleet.chat()
    for predictor in fleet.predictors.values():
        predictor.behaviour = "broken"
    answer = await fleet.chat()
    found = await families(fleet)
    counted = {
        sample.labels["fallback"]: sample.value
        for sample in found["block_decisions"].samples
        if sample.labels["policy"] == "block"
    }
    assert counted == {"none": 1, answer.headers["x-block-fallback"]: 1}


async def test_what_predictors_told_last_and_how_long_ago(world):
    fleet = await world(instances=1, predictors=True, policy="block")
    assert await fleet.metric('block_engine_free_blocks{instance="a"}') == 0.0
    assert "block_predictor_age_seconds{" not in (await fleet.http.get(f"{fleet.url}/metrics")).text
    await fleet.chat()
    assert await fleet.metric('block_engine_free_blocks{instance="a"}') == 100
    assert 0 < await fleet.metric('block_predictor_age_seconds{instance="a"}') < 5


async def test_open_requests_are_those_that_are_not_over(world, wait_until):
    fleet = await world(instances=1, max_body_bytes=1024)
    fleet.instances["a"].behaviour = "hang"
    waiting = [asyncio.create_task(fleet.chat()) for _ in range(3)]
    await wait_until(lambda: fleet.instances["a"].active == 3)
    assert await fleet.metric("block_open_requests") == 3
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await wait_until(lambda: fleet.instances["a"].active == 0)
    await fleet.http.post(f"{fleet.url}/v1/chat/completions", content=b"x" * 1025)
    assert await fleet.metric("block_open_requests") == 0


async def test_names_that_clients_think_up_become_no_labels(world):
    """An instance that has not told its models may serve any, so that the names reach it."""
    fleet = await world(instances=1)
    body = {"messages": [{"role": "user", "content": "x"}]}
    for number in range(40):
        await fleet.chat(model=f"evil-{number}", headers={"x-block-policy": f"evil-{number}"})
        await fleet.http.post(f"{fleet.url}/v1/chat/completions", content=json.dumps(body))
    text = (await fleet.http.get(f"{fleet.url}/metrics")).text
    assert "evil" not in text
    error = 'error_type="400",gen_ai_operation_name="chat",gen_ai_provider_name="vllm"'
    line = f'gen_ai_server_request_duration_seconds_count{{{error},gen_ai_request_model="other"}}'
    assert await fleet.metric(line) == 40


def test_of_an_instance_that_is_gone_nothing_is_told():
    fleet = Fleet((InstanceConfig(name="here", url="http://127.0.0.1:1"),), 1.0)
    metrics = SchedulerMetrics(fleet)
    for instance in ("here", "gone", "none"):
        metrics.requests.count(("random", instance, "2xx"))
    text, _ = metrics.exposition()
    assert b'instance="here"' in text
    assert b'instance="none"' in text
    assert b"gone" not in text.replace(b"broken, gone", b"")


def test_what_is_beyond_the_bound_of_series_is_counted_on_from_scrape_to_scrape():
    fleet = Fleet([InstanceConfig(name=f"i{n}", url="http://127.0.0.1:1") for n in range(600)], 1.0)
    metrics = SchedulerMetrics(fleet)
    line = b'block_requests_total{instance="other",outcome="other",policy="other"} %d.0\n'
    for scrape in (1, 2):
        for instance in fleet.instances:
            metrics.requests.count(("random", instance.name, "2xx"))
        text, _ = metrics.exposition()
        assert line % (100 * scrape) in text


async def test_a_signed_histogram_has_negative_bounds(world):
    fleet = await world(predictors=True, policy="block")
    for predictor in fleet.predictors.values():
        predictor.e2e_s = 0.0
    fleet.instances["a"].delay_s = fleet.instances["b"].delay_s = 0.1
    await fleet.chat()
    assert await fleet.metric('block_prediction_error_ratio_bucket{le="-0.9",quantity="e2e"}') == 1


@pytest.mark.parametrize("path", ["/metrics", "/health", "/v1/models"])
async def test_pages_have_heads(world, path):
    fleet = await world(instances=1)
    answer: httpx.Response = await fleet.http.head(f"{fleet.url}{path}")
    assert answer.status_code == 200
    assert answer.content == b""
