"""Durations and host times of batches that come and go on a clock that the test turns."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from block.latency.journal import JournalStep
from block.types import BatchShape
from block.vllm_plugin.step_recorder import StepRecorder, batch_shape


class Bench:
    """A recorder, its clock, and what it wrote."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.steps: list[JournalStep] = []
        self.recorder = StepRecorder(self.steps.append, lambda: self.now_s)

    def submit(self, at_s: float, batch: Any) -> None:
        self.now_s = at_s
        self.recorder.submitted(batch)

    def ready(self, at_s: float) -> None:
        self.now_s = at_s
        self.recorder.ready()
        self.recorder.write()


def batch(
    new: dict[str, tuple[int, int]] | None = None, cached: dict[str, tuple[int, int]] | None = None
) -> Any:
    """As vLLM's ``SchedulerOutput``: request -> (computed before, scheduled now)."""
    new, cached = new or {}, cached or {}
    scheduled = {name: tokens for name, (_, tokens) in (new | cached).items()}
    return SimpleNamespace(
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(scheduled.values()),
        scheduled_new_reqs=[SimpleNamespace(req_id=n, num_computed_tokens=c) for n, (c, _) in new.items()],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached), num_computed_tokens=[computed for computed, _ in cached.values()]
        ),
    )


PROMPT = batch(new={"a": (0, 100)})
DECODE = batch(cached={"a": (100, 1)})


def test_shapes_are_those_of_the_scheduler() -> None:
    assert batch_shape(PROMPT) == BatchShape(100, 0, 100, 100 * 100, 1)
    assert batch_shape(batch(cached={"a": (9, 1), "b": (20, 1)})) == BatchShape(0, 2, 31, 0, 2)
    mixed = batch(new={"c": (32, 8)}, cached={"a": (9, 1), "b": (20, 30)})
    assert batch_shape(mixed) == BatchShape(38, 1, 40 + 10 + 50, 8 * 40 + 30 * 50, 3)


def test_without_overlap_the_gap_is_the_engines_own_time() -> None:
    bench = Bench()
    bench.submit(1.0, PROMPT)
    bench.ready(1.5)
    bench.submit(1.6, DECODE)
    bench.ready(1.62)
    first, second = bench.steps
    assert (first.duration_s, second.duration_s) == pytest.approx((0.5, 0.02))
    assert math.isnan(first.host_s)
    assert second.host_s == pytest.approx(0.1)


def test_nothing_is_written_before_it_is_asked_for() -> None:
    bench = Bench()
    bench.submit(1.0, PROMPT)
    bench.now_s = 1.5
    bench.recorder.ready()
    assert bench.steps == []
    bench.submit(1.6, DECODE)
    bench.recorder.write()
    assert [step.step for step in bench.steps] == [1]


def test_with_overlap_a_duration_starts_at_the_predecessors_end() -> None:
    bench = Bench()
    bench.submit(1.0, PROMPT)
    bench.submit(1.1, DECODE)
    bench.ready(1.5)
    bench.submit(1.6, DECODE)
    bench.ready(1.52 + 0.2)
    bench.ready(1.72 + 0.02)
    assert [step.duration_s for step in bench.steps] == pytest.approx([0.5, 0.22, 0.02])
    assert math.isnan(bench.steps[1].host_s), "the queue was being filled, nothing had ended"
    assert bench.steps[2].host_s == pytest.approx(0.1)


def test_idle_time_is_nobodys() -> None:
    bench = Bench()
    bench.submit(1.0, PROMPT)
    bench.ready(1.5)
    bench.submit(9.0, batch(new={"b": (0, 5)}))
    bench.ready(9.1)
    assert math.isnan(bench.steps[1].host_s)
    assert bench.steps[1].duration_s == pytest.approx(0.1)


def test_a_batch_that_failed_is_not_recorded() -> None:
    bench = Bench()
    bench.submit(1.0, PROMPT)
    bench.recorder.dropped()
    bench.submit(2.0, PROMPT)
    bench.ready(2.5)
    assert [step.duration_s for step in bench.steps] == [0.5]
