"""Traces, from a client's context to a real collector's protocol."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from trace_collector import Span, TraceCollector

from block.config import SchedulerConfig
from block.errors import ConfigError
from block.operation import TracingSettings
from global_scheduler.app import create_app
from global_scheduler.tracing import check_tracing

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, CLIENT = 2, 3


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[TraceCollector]:
    made = TraceCollector()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # OpenTelemetry's own variable, in ms


async def test_a_request_is_one_tree_and_the_engine_is_below_its_attempt(world, collector, wait_until):
    fleet = await world(instances=1, predictors=True, policy="block", tracing={"endpoint": collector.url})
    given = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=1"}
    await fleet.chat(stream=True, headers=given)
    await wait_until(lambda: collector.named("chat llama"))
    (root,) = collector.named("chat llama")
    assert (root.trace_id, root.parent_id, root.kind) == (TRACE_ID, PARENT_ID, SERVER)
    assert {span.trace_id for span in collector.spans} == {TRACE_ID}
    below = {span.name for span in collector.spans if span.parent_id == root.span_id}
    assert below == {"estimate", "ask", "decide", "attempt"}
    (attempt,) = collector.named("attempt")
    assert {span.name for span in collector.spans if span.parent_id == attempt.span_id} == {
        "first byte",
        "stream",
    }
    received = fleet.instances["a"].received[0][0]
    assert received.getall("traceparent") == [f"00-{TRACE_ID}-{attempt.span_id}-01"]
    assert received["tracestate"] == "vendor=1"
    assert collector.services == {"block-scheduler"}


async def test_spans_say_when_what_and_where_and_nothing_of_the_prompt(world, collector, wait_until):
    fleet = await world(instances=1, predictors=True, policy="block", tracing={"endpoint": collector.url})
    await fleet.chat(stream=True, messages=[{"role": "user", "content": "a secret"}])
    await wait_until(lambda: collector.named("chat llama"))
    (root,) = collector.named("chat llama")
    parts = [in_order(collector, name) for name in ("estimate", "ask", "decide", "attempt")]
    times = [moment for span in parts for moment in (span.start_ns, span.end_ns)]
    assert [root.start_ns, *times, root.end_ns] == sorted([root.start_ns, *times, root.end_ns])
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "llama",
        "gen_ai.usage.output_tokens": 5,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "block.policy": "block",
        "block.instance": "a",
        "block.attempts": 1,
        "block.predicted_e2e_s": 1.0,
    }
    assert root.attributes.items() >= expected.items()
    assert parts[-1].attributes["server.address"] == "127.0.0.1"
    assert parts[-1].kind == CLIENT
    assert "secret" not in str(collector.spans)


def in_order(collector: TraceCollector, name: str) -> Span:
    (span,) = collector.named(name)
    return span


async def test_each_attempt_has_its_span_and_failures_are_marked(world, collector, wait_until):
    fleet = await world(tracing={"endpoint": collector.url})
    fleet.instances["a"].behaviour = "die_first"
    await fleet.chat()
    await wait_until(lambda: collector.named("chat llama"))
    failed, served = collector.named("attempt")
    assert (failed.failed, failed.attributes["error.type"]) == (True, "reset")
    assert not served.failed
    sent = [fleet.instances[name].received[0][0]["traceparent"].split("-")[2] for name in "ab"]
    assert sent == [failed.span_id, served.span_id]
    fleet.instances["a"].behaviour = fleet.instances["b"].behaviour = "fail"
    await fleet.chat()
    await wait_until(lambda: len(collector.named("chat llama")) == 2)
    root = collector.named("chat llama")[1]
    assert (root.failed, root.attributes["error.type"]) == (True, "500")


async def test_what_is_not_sampled_is_passed_on_as_it_came(world, collector, wait_until):
    fleet = await world(instances=1, tracing={"endpoint": collector.url, "sample": 0.0})
    unsampled = f"00-{TRACE_ID}-{PARENT_ID}-00"
    for headers in ({}, {"traceparent": unsampled}, {"traceparent": "garbage"}):
        await fleet.chat(headers=headers)
    received = [headers.get("traceparent") for headers, _, _ in fleet.instances["a"].received]
    assert received == [None, unsampled, "garbage"]
    await fleet.chat(headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"})
    await wait_until(lambda: collector.named("chat llama"))  # a client's own decision comes first
    assert len(collector.named("chat llama")) == 1


async def test_a_collector_that_is_away_costs_no_request(world):
    fleet = await world(instances=1, tracing={"endpoint": "http://127.0.0.1:9/v1/traces"})
    assert (await fleet.chat()).status_code == 200


async def test_without_traces_the_clients_context_goes_through(world):
    fleet = await world(instances=1)
    given = f"00-{TRACE_ID}-{PARENT_ID}-01"
    await fleet.chat(headers={"traceparent": given})
    assert fleet.instances["a"].received[0][0]["traceparent"] == given


def test_nothing_of_opentelemetry_is_loaded_unless_it_is_wanted():
    code = (
        "import sys, global_scheduler.app; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_its_absence_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest, **more):
        if name.startswith("opentelemetry"):
            raise ImportError("not there", name="opentelemetry")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"block-router\[tracing\]"):
        check_tracing(TracingSettings(endpoint="http://h/v1/traces"))
    config = {"instances": [{"name": "a", "url": "http://h"}]}
    create_app(SchedulerConfig.model_validate(config))
