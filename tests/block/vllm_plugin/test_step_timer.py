from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from block.vllm_plugin.step_timer import StepTimer


@pytest.fixture
def timer() -> Iterator[StepTimer[int]]:
    device: StepTimer[int] = StepTimer()
    yield device
    device.close()


def test_a_step_is_pending_until_its_end(timer: StepTimer[int]) -> None:
    end_s = timer.reserve(0.05)
    future = timer.resolve_at(end_s, 7)
    assert not future.done()
    assert future.result(timeout=5) == 7
    assert time.monotonic() >= end_s


def test_steps_queue_behind_each_other_without_drift(timer: StepTimer[int]) -> None:
    ends_s = [timer.reserve(0.01) for _ in range(20)]
    futures = [timer.resolve_at(end_s, step) for step, end_s in enumerate(ends_s)]
    assert [future.result(timeout=5) for future in futures] == list(range(20))
    assert ends_s == [pytest.approx(ends_s[0] + 0.01 * step) for step in range(20)]
    assert min(timer.lateness_s()) >= 0


def test_an_idle_device_starts_now(timer: StepTimer[int]) -> None:
    first_end_s = timer.reserve(0.001)
    time.sleep(0.02)
    before_s = time.monotonic()
    assert timer.reserve(0.01) >= max(first_end_s, before_s) + 0.01


def test_a_step_counts_from_when_its_work_began(timer: StepTimer[int]) -> None:
    begun_s = time.monotonic()
    time.sleep(0.01)
    assert timer.reserve(0.05, begun_s) == pytest.approx(begun_s + 0.05)
    assert timer.reserve(0.05, begun_s) == pytest.approx(begun_s + 0.1), "the device is still busy"


def test_the_engines_own_work_counts_for_what_it_is_told_to(timer: StepTimer[int]) -> None:
    end_s = timer.reserve(0.02)
    timer.wait_until(end_s)
    time.sleep(0.004)
    second_s = timer.reserve(0.02, host_s=0.001)
    assert second_s == pytest.approx(end_s + 0.021), "slower here than on the host that was recorded"
    timer.wait_until(second_s)
    third_s = timer.reserve(0.02, host_s=0.010)
    assert third_s == pytest.approx(second_s + 0.030), "faster here"
    timer.wait_until(third_s)
    time.sleep(0.05)
    before_s = time.monotonic()
    assert timer.reserve(0.02, host_s=0.001) >= before_s + 0.02, "a pause is no work"


def test_a_caller_may_wait_by_itself(timer: StepTimer[int]) -> None:
    end_s = timer.reserve(0.02)
    timer.wait_until(end_s)
    assert time.monotonic() >= end_s
    assert len(timer.lateness_s()) == 1
