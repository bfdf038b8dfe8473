"""The reader against a real engine's feed: absent, late, restarted, lossy."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
from vllm import SamplingParams

from block.errors import FeedError
from block.types import EngineState
from block.vllm_plugin import publisher
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec
from predictor.feed_reader import FeedReader

ASYNC = "block.vllm_plugin.scheduler.AsyncFeedScheduler"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/feed"


def feed_engine(address: str) -> VirtualEngine:
    flags = {"additional_config": {"block": {"feed": {"address": address}}}}
    return VirtualEngine(VirtualEngineSpec(scheduler=ASYNC, asynchronous=True, flags=flags))


@asynccontextmanager
async def following(reader: FeedReader) -> AsyncIterator[None]:
    task = asyncio.create_task(reader.follow())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is on another thread
            await asyncio.sleep(0.01)


def decode_some(engine: VirtualEngine, name: str, steps: int) -> None:
    engine.add(name, [5] * 40, SamplingParams(max_tokens=100))
    for _ in range(steps):
        engine.step()


async def test_the_mirror_follows_a_running_engine(address: str) -> None:
    states: list[EngineState] = []
    engine = feed_engine(address)
    reader = FeedReader(address, on_change=lambda: states.append(reader.mirror.state()))
    async with following(reader):
        await until(lambda: reader.synchronised)
        decode_some(engine, "a", 20)
        await until(lambda: reader.mirror.state().step == 20)
        (request,) = reader.mirror.state().running
        # The step that ended since the newest schedule is told with the next one.
        assert request.generated_tokens == engine.scheduler.running[0].num_output_tokens - 1
        assert [state.step for state in states][-3:] == [18, 19, 20]
        assert reader.resyncs == 0
    engine.close()


async def test_changed_wakes_with_the_next_message(address: str) -> None:
    engine, reader = feed_engine(address), FeedReader(address)
    async with following(reader):
        await until(lambda: reader.synchronised)
        await asyncio.wait_for(reader.changed(), timeout=5)
    engine.close()


async def test_an_absent_engine_is_waited_for(address: str) -> None:
    reader = FeedReader(address)
    made_s = time.monotonic()
    async with following(reader):
        await asyncio.sleep(0.3)
        assert not reader.synchronised
        assert reader.last_message_s <= made_s
        engine = feed_engine(address)
        await until(lambda: reader.synchronised)
        assert reader.last_message_s > made_s
    engine.close()


async def test_a_restarted_engine_is_followed_again(address: str) -> None:
    first, reader = feed_engine(address), FeedReader(address)
    async with following(reader):
        decode_some(first, "a", 10)
        await until(lambda: reader.synchronised and reader.mirror.state().step == 10)
        engine_id = reader.mirror.state().engine_id
        first.close()
        second = feed_engine(address)
        await until(lambda: reader.mirror.state().engine_id != engine_id)
        decode_some(second, "b", 5)
        await until(lambda: reader.synchronised and reader.mirror.state().step == 5)
        assert [request.id for request in reader.mirror.state().running] == ["b"]
    second.close()


async def test_lost_messages_are_mended_by_a_snapshot(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, reader = feed_engine(address), FeedReader(address)
    sent = lose_every_fifth(monkeypatch)
    async with following(reader):
        await until(lambda: reader.synchronised)
        decode_some(engine, "a", 40)
        await until(lambda: reader.synchronised and reader.mirror.state().step == 40)
        assert reader.resyncs > 0
        assert len(sent) > 40
    engine.close()


def lose_every_fifth(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    sent: list[object] = []
    send = publisher.Publisher._send

    def lossy(self: publisher.Publisher, socket: zmq.Socket[bytes], message: object) -> None:
        sent.append(message)
        # Later messages all arrive, so that the last gap can be mended.
        if len(sent) % 5 or len(sent) > 40:
            send(self, socket, message)

    monkeypatch.setattr(publisher.Publisher, "_send", lossy)
    return sent


async def test_nonsense_on_the_wire_is_survived(address: str) -> None:
    reader = FeedReader(address)
    async with following(reader):
        with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(address)
            await until(lambda: bool(socket.poll(0)))
            for frame in (b"", b"\xff\xfe", msgspec.msgpack.encode({"a": 1}), b"\x93\xa5delta"):
                socket.send(frame)
            await asyncio.sleep(0.3)
        assert not reader.synchronised
        engine = feed_engine(address)
        await until(lambda: reader.synchronised)
    engine.close()


async def test_an_address_that_cannot_be_used_is_an_error() -> None:
    with pytest.raises(FeedError, match="carrier-pigeon"):
        await FeedReader("carrier-pigeon://roof").follow()
