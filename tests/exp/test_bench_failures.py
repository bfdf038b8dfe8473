"""Failures under load: nothing is lost, nothing fails before its first byte that another could serve."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from rich.console import Console

from block.errors import ConfigError
from exp.bench_failures import FailureBench, FaultResult, Phases, chosen, mock_setting, vllm_setting
from exp.failure_faults import FAULTS, ON_VLLM
from exp.failure_load import End, FailureLoad, Source
from exp.fault_proxy import FaultProxy, Harm
from exp.free_port import free_port

FEW = (
    "engine kill -9",
    "engine answers garbage",
    "engine hangs",
    "predictor SIGSTOP",
    "scheduler worker kill -9",
)
REFUSED_BY_NOBODY = ("scheduler worker kill -9", "scheduler SIGTERM")
"""While workers are away, connections are refused or reset; only another scheduler could take them."""
KILLS_STREAMS = ("engine kill -9", "engine resets", "engine breaks", "engine answers garbage", "scheduler")


def strike(names: tuple[str, ...], phases: Phases, rate: float, folder: Path) -> dict[str, FaultResult]:
    bench = FailureBench(chosen(names), phases, rate)
    asyncio.run(bench.run(mock_setting(folder), Console(stderr=True)))
    assert bench.lost == json.loads(json.dumps(bench.summary()))["lost"] == 0
    return bench.results


def check(name: str, result: FaultResult) -> None:
    ends = result.ends
    assert result.sent == sum(ends.get(end, 0) for end in End)
    assert ends.get(End.ANSWERED, 0) > 0.5 * result.sent, result.reasons
    if name not in REFUSED_BY_NOBODY:
        assert ends.get(End.FAILED_BEFORE, 0) == 0, (name, result.reasons)
    if not name.startswith(KILLS_STREAMS):
        assert ends.get(End.FAILED_AFTER, 0) == 0, (name, result.reasons)


def test_a_few_faults_in_seconds(tmp_path: Path) -> None:
    results = strike(FEW, Phases(0.6, 1.0, 0.3), 30.0, tmp_path)
    assert len(results) == len(FEW)
    for name, result in results.items():
        check(name, result)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_fault(tmp_path: Path) -> None:
    results = strike((), Phases(1.5, 3.0, 1.5), 40.0, tmp_path)
    assert set(results) == set(FAULTS)
    for name, result in results.items():
        check(name, result)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(900)
def test_killed_and_stopped_vllm_servers_lose_nothing(tmp_path: Path) -> None:
    bench = FailureBench(chosen(ON_VLLM), Phases(3.0, 8.0, 3.0), 6.0)
    asyncio.run(bench.run(vllm_setting(tmp_path), Console(stderr=True)))
    assert bench.lost == 0
    for name, result in bench.results.items():
        check(name, result)


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ConfigError, match="--only 'engine sings': unknown; known: engine kill -9"):
        chosen(["engine sings"])


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"
ERROR = b'data: {"error":{"message":"broken"}}\n\n'


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (GOOD, End.ANSWERED),
        (b"", End.FAILED_BEFORE),
        (b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\n{}", End.FAILED_BEFORE),
        (GOOD[:-2], End.FAILED_AFTER),
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(ERROR), ERROR), End.FAILED_AFTER),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\ngo", End.LOST),
        (GOOD[:-1] + b"!", End.LOST),
        (GOOD[:-2] + b"!", End.LOST),
    ],
)
async def test_every_end_is_called_by_its_name(answer: bytes, end: End) -> None:
    load = await one_request(_says(answer), free_port())
    assert [outcome.end for outcome in load.outcomes] == [end]


@pytest.mark.parametrize(
    ("harm", "ends"),
    [
        (Harm.NONE, {End.ANSWERED}),
        (Harm.DELAY, {End.ANSWERED}),
        (Harm.RESET, {End.FAILED_BEFORE}),
        (Harm.TRUNCATE, {End.FAILED_BEFORE}),
        (Harm.GARBAGE, {End.FAILED_BEFORE}),
    ],
)
async def test_a_proxy_does_the_harm_it_is_told_to(harm: Harm, ends: set[End]) -> None:
    port = free_port()
    proxy = FaultProxy(free_port(), port, delay_s=0.3)
    await proxy.start()
    proxy.harm = harm
    load = await one_request(_says(GOOD), port, int(proxy.url.rpartition(":")[2]))
    await proxy.stop()
    (outcome,) = load.outcomes
    assert outcome.end in ends
    assert (outcome.ended_s - outcome.sent_s > 0.3) == (harm is Harm.DELAY)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _says(answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    return handle


async def one_request(handler: Handler, port: int, ask_at: int | None = None) -> FailureLoad:
    def judge(body: bytes, whole: bool) -> bool:
        return body == b"good" if whole else b"good".startswith(body)

    async with await asyncio.start_server(handler, "127.0.0.1", port):
        load = FailureLoad(Source(ask_at or port, 1000.0, 0.5, {False: judge}, "m", 4))
        load.send(stream=False)
        await load.settle()
    return load
