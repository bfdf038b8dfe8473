from __future__ import annotations

import threading
import time
from statistics import median

from block.vllm_plugin.precise_wait import PreciseWait


def test_it_never_returns_early_and_seldom_late() -> None:
    wait, late_s = PreciseWait(), []
    for _ in range(100):
        deadline_s = time.monotonic() + 0.003
        told_s = wait.until(deadline_s)
        assert 0 <= told_s <= time.monotonic() - deadline_s
        late_s.append(told_s)
    assert median(late_s) < 200e-6


def test_a_moment_that_has_passed_is_not_waited_for() -> None:
    before_s = time.monotonic()
    assert PreciseWait().until(before_s - 1.0) >= 1.0
    assert time.monotonic() - before_s < 0.05


def test_most_of_the_wait_is_slept() -> None:
    spent_s: list[float] = []

    def run() -> None:
        wait, started_s = PreciseWait(), time.thread_time()
        for _ in range(20):
            wait.until(time.monotonic() + 0.01)
        spent_s.append(time.thread_time() - started_s)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert spent_s[0] < 0.2 * 0.1
