"""The main job, whole: openai clients, the router, real predictors, two real vLLM servers (emulated GPU).

One cluster for all tests, started by block-deploy; the last test kills one of its servers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import APIError, AsyncOpenAI, OpenAI

from deploy.run_folder import RunFolder
from deploy.state import ClusterState, ProcessState

ROOT = Path(__file__).resolve().parent.parent
INSTANCES = 2

pytestmark = pytest.mark.engine


@dataclass(frozen=True)
class Cluster:
    """A running cluster; URLs without /v1."""

    run: RunFolder
    state: ClusterState
    """As it was when all was ready."""

    @property
    def url(self) -> str:
        return self.state.openai_base_url.removesuffix("/v1")

    def urls(self, role: str) -> list[str]:
        return [process.url for process in self.state.processes if process.role == role]

    @property
    def predictor(self) -> ProcessState:
        """The process of all predictors, as it is now."""
        state = self.run.read_state()
        assert state is not None
        [shared] = [process for process in state.processes if process.role == "predictor"]
        return shared


def _free_port_range(count: int) -> int:
    """The first of ``count`` neighbouring free ports."""
    for first in range(20_000, 60_000, 97):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
        return first
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def cluster(llama_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    first = _free_port_range(1 + 2 * INSTANCES)
    settings = {
        "scheduler_port": first,
        "engine_port": first + 1,
        "predictor_port": first + 1 + INSTANCES,
        "run_dir": folder,
        "engine.model": llama_model,
        "predictor.hangs.interval_s": 0.5,
        "predictor.hangs.patience_s": 3.0,
    }
    flags = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    file = str(ROOT / "config/cluster/local.yaml")
    argv = [sys.executable, "-m", "deploy.cli", "up", file, "--instances", str(INSTANCES), *flags]
    with (folder / "launcher.log").open("wb") as log:
        launcher = subprocess.Popen(argv, stdout=log, stderr=log, cwd=ROOT)
    try:
        run = RunFolder(folder / "local")
        deadline_s = time.monotonic() + 240
        while not ((state := run.read_state()) and state.ready):
            assert launcher.poll() is None, (folder / "launcher.log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        yield Cluster(run, state)
    finally:
        launcher.terminate()
        launcher.wait(60)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=cluster.state.openai_base_url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def _headers(policy: str = "block", tokens: int = 40) -> dict[str, str]:
    return {"x-block-policy": policy, "x-block-output-tokens": str(tokens)}


def _load(cluster: Cluster) -> list[dict[str, int]]:
    [url] = cluster.urls("predictor")
    places = [f"{url}/of/instance-{index}" for index in range(INSTANCES)]
    return [httpx.get(f"{place}/v1/state").json()["load"] for place in places]


def _wait_until_idle(cluster: Cluster, within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while any(load["running"] + load["waiting"] + load["committed"] for load in _load(cluster)):
        assert time.monotonic() < deadline_s, _load(cluster)
        time.sleep(0.05)


def test_a_stream_comes_whole_and_as_predicted(cluster: Cluster, client: OpenAI) -> None:
    client.completions.create(model="llama-2-7b", prompt="warm up", max_tokens=4)
    _wait_until_idle(cluster, 5)
    started_s = time.monotonic()
    raw = client.chat.completions.with_raw_response.create(
        model="llama-2-7b",
        messages=[{"role": "user", "content": "Tell me of the sea."}],
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        extra_headers=_headers(),
    )
    chunks = list(raw.parse())
    took_s = time.monotonic() - started_s
    assert chunks[-1].usage.completion_tokens == 40
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert raw.headers["x-block-instance"].startswith("instance-")
    assert raw.headers["x-block-policy"] == "block"
    assert "x-block-fallback" not in raw.headers
    assert float(raw.headers["x-block-predicted-e2e-ms"]) / 1e3 == pytest.approx(took_s, rel=0.25)


def test_a_recorded_length_ends_the_response_early(client: OpenAI) -> None:
    answer = client.completions.create(
        model="llama-2-7b",
        prompt="Count",
        max_tokens=30,
        extra_body={"vllm_xargs": {"block_output_tokens": 7}},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "stop"


def test_bodies_pass_untouched_both_ways(cluster: Cluster) -> None:
    body = {
        "model": "llama-2-7b",
        "messages": [{"role": "user", "content": "Weather?"}],
        "max_tokens": 5,
        "seed": 3,
        "logprobs": True,
        "unknown_field": {"kept": [1, 2]},
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        "tool_choice": "none",
    }
    direct = httpx.post(f"{cluster.urls('engine')[0]}/v1/chat/completions", json=body, timeout=60)
    routed = httpx.post(f"{cluster.url}/v1/chat/completions", json=body, timeout=60)
    assert (direct.status_code, routed.status_code) == (200, 200)
    own = {"id": "", "created": 0, "system_fingerprint": ""}
    assert {**routed.json(), **own} == {**direct.json(), **own}


def test_models_are_the_fleets(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["llama-2-7b"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[1, 2]", 400),
        (b'{"model": "llama-2-7b", "messages": "no list", "max_tokens": 5}', 400),
        (b'{"model": "llama-2-7b", "prompt": "a", "max_tokens": -1}', 400),
        (b'{"model": "llama-2-7b", "prompt": "a", "max_tokens": "many"}', 400),
        (b'{"model": "nobody", "prompt": "a"}', 404),
        (b'{"model": "llama-2-7b", "prompt": "\xff\xfe"}', 400),
        (b'{"prompt": "' + b"a" * (17 * 2**20) + b'"}', 413),
    ],
)
def test_malformed_bodies_get_a_4xx_in_openais_shape(cluster: Cluster, content: bytes, status: int) -> None:
    path = "chat/completions" if b"messages" in content else "completions"
    answer = httpx.post(f"{cluster.url}/v1/{path}", content=content, timeout=20)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_client_that_leaves_frees_the_engine(cluster: Cluster, client: OpenAI) -> None:
    stream = client.completions.create(
        model="llama-2-7b",
        prompt="Go on and on",
        max_tokens=2000,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers=_headers(tokens=2000),
    )
    next(iter(stream))
    assert sum(load["running"] for load in _load(cluster)) == 1
    stream.close()
    _wait_until_idle(cluster, 3)


def test_several_sequences_of_one_request_are_recognised(cluster: Cluster, client: OpenAI) -> None:
    """The commitment ends when the feed shows them, long before it would expire."""
    stream = client.chat.completions.create(
        model="llama-2-7b",
        messages=[{"role": "user", "content": "Twice"}],
        n=2,
        max_tokens=400,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers=_headers(tokens=400),
    )
    assert {chunk.choices[0].index for chunk, _ in zip(stream, range(20), strict=False)} == {0, 1}
    loads = _load(cluster)
    assert sum(load["running"] for load in loads) == 2
    assert sum(load["committed"] for load in loads) == 0
    stream.close()
    _wait_until_idle(cluster, 3)


async def test_requests_that_come_together_do_not_herd(cluster: Cluster) -> None:
    async with AsyncOpenAI(base_url=cluster.state.openai_base_url, api_key="none", timeout=60) as client:

        async def send() -> str:
            raw = await client.completions.with_raw_response.create(
                model="llama-2-7b", prompt="word " * 200, max_tokens=40, extra_headers=_headers()
            )
            assert "x-block-fallback" not in raw.headers  # counting requests would spread them too
            return str(raw.headers["x-block-instance"])

        async def staggered(index: int) -> str:
            await asyncio.sleep(0.015 * index)
            return await send()

        chosen = Counter(await asyncio.gather(*(staggered(index) for index in range(16))))
    assert min(chosen.values()) >= 5
    assert len(chosen) == INSTANCES
    _wait_until_idle(cluster, 5)


def test_one_scrape_tells_of_all_predictors(cluster: Cluster) -> None:
    [url] = cluster.urls("predictor")
    page = httpx.get(f"{url}/metrics").text
    for index in range(INSTANCES):
        assert f'block_predictor_ready{{instance="instance-{index}"}} 1.0' in page
    assert httpx.get(f"{url}/health").json()["instances"] == {f"instance-{i}": "ok" for i in range(INSTANCES)}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_its_predictors_it_serves_and_says_so_until_they_are_back(
    cluster: Cluster, client: OpenAI, number: signal.Signals
) -> None:
    """One process has them all: without it there is no prediction, and its launcher starts it again."""

    def ask() -> str | None:
        answer = client.completions.with_raw_response.create(
            model="llama-2-7b", prompt="word " * 20, max_tokens=2, extra_headers=_headers(tokens=2)
        )
        return answer.headers.get("x-block-fallback")

    assert ask() is None
    before = cluster.predictor
    assert before.pid is not None
    os.kill(before.pid, number)
    without = [ask() for _ in range(5)]
    assert all(without), without
    deadline_s = time.monotonic() + 60
    while any(ask() for _ in range(5)):
        assert time.monotonic() < deadline_s
    after = cluster.predictor
    assert (after.phase, after.restarts) == ("ready", before.restarts + 1)
    assert after.pid != before.pid


async def test_a_killed_server_loses_no_request_without_a_byte(cluster: Cluster) -> None:
    """Streams that had begun end with an error; all others are served by the server that is left."""
    victim = next(process for process in cluster.state.processes if process.role == "engine")
    begun: set[int] = set()

    async with AsyncOpenAI(
        base_url=cluster.state.openai_base_url, api_key="none", max_retries=0, timeout=120
    ) as client:

        async def send(index: int) -> str:
            await asyncio.sleep(0.05 * index)
            try:
                stream = await client.completions.create(
                    model="llama-2-7b",
                    prompt="word " * 150,
                    max_tokens=80,
                    stream=True,
                    extra_body={"ignore_eos": True},
                    extra_headers=_headers(("block", "round_robin")[index % 2], 80),
                )
                tokens = 0
                async for chunk in stream:
                    begun.add(index)
                    tokens += bool(chunk.choices)
            except APIError as error:
                return f"broken: {error}"
            return "whole" if tokens >= 80 else f"short: {tokens}"

        sends = [asyncio.create_task(send(index)) for index in range(80)]
        await asyncio.sleep(2.5)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        outcomes = await asyncio.wait_for(asyncio.gather(*sends), 100)

    broken = [index for index, outcome in enumerate(outcomes) if outcome != "whole"]
    assert broken, "the server died without work: the test showed nothing"
    assert set(broken) <= begun, [outcomes[index] for index in broken if index not in begun]
    assert len(begun) == len(sends)
    assert all(outcomes[index].startswith("broken") for index in broken)
