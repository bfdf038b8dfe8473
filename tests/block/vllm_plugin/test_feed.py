"""The feed's thread and socket, and what vLLM's scheduler notices of their failures: nothing."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from vllm import SamplingParams

from block.messages import Delta, FeedMessage, Snapshot
from block.vllm_plugin import publisher
from exp.virtual_engine import VirtualEngine, VirtualEngineSpec

SYNC = "block.vllm_plugin.scheduler.FeedScheduler"
ASYNC = "block.vllm_plugin.scheduler.AsyncFeedScheduler"
DECODER = msgspec.msgpack.Decoder(FeedMessage)
WAIT_MS = 5_000


def feed_engine(address: str, asynchronous: bool = True, **flags: Any) -> VirtualEngine:
    config = {"block": {"feed": {"address": address}}}
    return VirtualEngine(
        VirtualEngineSpec(
            scheduler=ASYNC if asynchronous else SYNC,
            asynchronous=asynchronous,
            flags={"additional_config": config, **flags},
        )
    )


def run_to_the_end(engine: VirtualEngine) -> list[int]:
    """Output lengths of three requests."""
    requests = [engine.add(f"r{i}", [5] * 40, SamplingParams(max_tokens=10 + i)) for i in range(3)]
    while engine.busy:
        engine.step()
    return [request.num_output_tokens for request in requests]


class Reader:
    """A bare subscriber."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(address)

    def next(self) -> FeedMessage:
        assert self.socket.poll(WAIT_MS), "nothing came"
        return DECODER.decode(self.socket.recv())

    def close(self) -> None:
        self._context.destroy(linger=0)


class FeedLog(logging.Handler):
    """What the feed logs; vLLM's loggers hand nothing on to pytest's own capture."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        return "\n".join(f"{record.getMessage()} {record.exc_info}" for record in self.records)


@pytest.fixture
def feed_log() -> Iterator[FeedLog]:
    handler, logger = FeedLog(), logging.getLogger("vllm.block.feed")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/feed"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_subscriber_gets_a_snapshot_then_every_step(address: str, asynchronous: bool) -> None:
    engine, reader = feed_engine(address, asynchronous), Reader(address)
    first = reader.next()
    assert isinstance(first, Snapshot)
    assert first.requests == ()
    assert first.limits.async_scheduling is asynchronous
    assert run_to_the_end(engine) == [10, 11, 12]
    seen: list[Delta] = []
    while not seen or seen[-1].running or not any(delta.removed for delta in seen):
        seen.append(reader.next())
    assert [delta.seq for delta in seen] == list(range(first.seq + 1, first.seq + 1 + len(seen)))
    finished = [record.step for delta in seen for record in delta.clock.finished_steps]
    assert finished == list(range(1, len(finished) + 1))
    reader.close()
    engine.close()


def test_subscribing_again_brings_another_snapshot(address: str) -> None:
    engine, reader = feed_engine(address), Reader(address)
    assert isinstance(reader.next(), Snapshot)
    reader.socket.setsockopt(zmq.UNSUBSCRIBE, b"")
    reader.socket.setsockopt(zmq.SUBSCRIBE, b"")
    messages = (reader.next() for _ in range(10))
    assert any(isinstance(message, Snapshot) for message in messages)
    reader.close()
    engine.close()


def test_two_readers_are_served(address: str) -> None:
    engine, first = feed_engine(address), Reader(address)
    assert isinstance(first.next(), Snapshot)
    second = Reader(address)
    assert isinstance(second.next(), Snapshot)
    first.close()
    run_to_the_end(engine)
    assert isinstance(second.next(), Delta)
    second.close()
    engine.close()


def test_a_quiet_engine_still_sends_heartbeats(address: str) -> None:
    engine, reader = feed_engine(address), Reader(address)
    snapshot, beats = reader.next(), [reader.next(), reader.next()]
    assert all(isinstance(beat, Delta) and beat.running is None for beat in beats)
    assert beats[1].clock.time_s - snapshot.clock.time_s <= 2 * publisher.HEARTBEAT_S + 0.5
    reader.close()
    engine.close()


@pytest.mark.parametrize(
    "config",
    [
        {"feed": {"address": "ipc:///no/such/folder/feed"}},
        {"feed": {"address": "tcp://256.0.0.1:x"}},
        {"feed": {"address": "carrier-pigeon://roof"}},
        {"feed": {"adress": "ipc:///tmp/x"}},
        {"feed": 3},
        "feed",
        {},
    ],
)
def test_an_unusable_feed_does_not_stop_scheduling(config: Any, feed_log: FeedLog) -> None:
    flags = {"additional_config": {"block": config}}
    engine = VirtualEngine(VirtualEngineSpec(scheduler=ASYNC, asynchronous=True, flags=flags))
    assert run_to_the_end(engine) == [10, 11, 12]
    engine.close()
    assert re.search(r"block\.feed|block: feed|block = ", feed_log.text)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"max_num_active_seqs": 8}, "max_num_active_seqs"),
        ({"prefill_schedule_interval": 3}, "prefill_schedule_interval"),
        ({"enable_lora": True}, "LoRA"),
    ],
)
def test_what_the_contract_cannot_carry_is_refused(
    address: str, flags: dict[str, Any], named: str, feed_log: FeedLog
) -> None:
    engine = feed_engine(address, **flags)
    assert named in feed_log.text
    assert run_to_the_end(engine) == [10, 11, 12]


def test_a_failure_in_the_engines_thread_is_logged_once(address: str, feed_log: FeedLog) -> None:
    engine = feed_engine(address)
    engine.scheduler.block_feed._live._capturer._scheduler = object()
    assert run_to_the_end(engine) == [10, 11, 12]
    engine.close()
    (failure,) = (record for record in feed_log.records if record.exc_info)
    assert "vLLM serves on" in failure.getMessage()


def test_a_feed_that_falls_behind_gives_up(
    address: str, feed_log: FeedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MOST_UNSENT", 0)
    engine = feed_engine(address)
    assert run_to_the_end(engine) == [10, 11, 12]
    engine.close()
    assert "does not keep up" in feed_log.text
