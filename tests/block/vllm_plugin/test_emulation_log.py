"""What an emulation says of itself, and when."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from block.types import BatchShape
from block.vllm_plugin.emulation_log import EmulationLog
from block.vllm_plugin.step_timer import StepTimer

SHAPE = BatchShape(0, 3, 400, 0, 3)


class Heard(logging.Handler):
    """What was said, each line once: vLLM's loggers may or may not hand on to the root."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def heard() -> Iterator[Heard]:
    logger, handler = logging.getLogger("vllm.block.emulation"), Heard()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.setLevel(before)
    logger.removeHandler(handler)


@pytest.fixture
def timer() -> Iterator[StepTimer[int]]:
    made: StepTimer[int] = StepTimer()
    for _ in range(3):
        made.wait_until(time.monotonic() - 0.002)
    yield made
    made.close()


def test_how_exactly_time_is_kept_is_told_when_idle_after_many_steps_and_at_the_end(
    timer: StepTimer[int], heard: Heard
) -> None:
    log = EmulationLog(SimpleNamespace(uncovered=0), timer)
    for _ in range(999):
        log.step(SHAPE)
    log.idle()
    assert heard.messages == []
    log.step(SHAPE)
    log.idle()
    log.idle()
    log.tell()
    (line,) = heard.messages
    assert line.startswith("Emulated 1000 steps, 0 unlike any recorded; the last 3 ended late by p50 ")
    log.step(SHAPE)
    log.tell()
    assert heard.messages[1].startswith("Emulated 1001 steps")


def test_steps_unlike_any_recorded_are_told_of_at_once_and_then_more_rarely(
    timer: StepTimer[int], heard: Heard
) -> None:
    times = SimpleNamespace(uncovered=0)
    log = EmulationLog(times, timer)
    log.step(SHAPE)
    for _ in range(250):
        times.uncovered += 1
        log.step(SHAPE)
    told = [line.partition(" steps")[0] for line in heard.messages]
    assert told == ["1 of 2", "10 of 11", "100 of 101"]
    assert str(SHAPE) in heard.messages[0]
