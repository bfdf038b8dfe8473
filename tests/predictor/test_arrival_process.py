"""What is expected to arrive follows what has arrived."""

from __future__ import annotations

import numpy as np
import pytest

from block.lengths import LengthDistribution
from block.messages import RequestFacts
from block.simulation.expectation import MOST, WINDOW_S
from predictor.arrival_process import ArrivalProcess


def _facts(index: int, prompt_tokens: int = 100, max_tokens: int = 400) -> RequestFacts:
    return RequestFacts(index, f"r{index}", 0.0, prompt_tokens, max_tokens)


def _process(gap_s: float, count: int, lengths: dict[str, int] | None = None) -> tuple[ArrivalProcess, float]:
    known = lengths or {}
    process = ArrivalProcess(lambda name: LengthDistribution.point(known[name]) if name in known else None)
    process.note((), 0.0)
    for index in range(count):
        process.note((_facts(index),), (index + 1) * gap_s)
    return process, count * gap_s


def test_the_rate_is_that_of_the_latest_arrivals() -> None:
    process, now_s = _process(0.5, 100)
    assert process.rate_per_s(now_s) == pytest.approx(2.0, rel=0.05)
    assert process.rate_per_s(now_s + 10 * WINDOW_S) == 0.0


def test_a_burst_longer_than_memory_keeps_its_rate() -> None:
    process, now_s = _process(0.01, 3 * MOST)
    assert process.rate_per_s(now_s) == pytest.approx(100.0, rel=0.05)


def test_they_are_evenly_spaced_and_as_long_as_those_seen() -> None:
    process, now_s = _process(0.5, 40, {f"r{i}": 10 * (i + 1) for i in range(40)})
    expected = process.expected(now_s)
    assert np.allclose(np.diff(expected.arrival_s), 1 / process.rate_per_s(now_s))
    assert set(expected.prompt_tokens) == {100}
    assert expected.output_tokens[:32].mean() == pytest.approx(205, rel=0.05)


def test_every_stretch_is_mixed() -> None:
    process, now_s = _process(0.5, 64, {f"r{i}": 1 + 4 * i for i in range(64)})
    outputs = process.expected(now_s).output_tokens
    for start in range(0, 24, 8):
        assert outputs[start : start + 8].mean() == pytest.approx(127, rel=0.25)


def test_unknown_lengths_are_the_limits_until_somebody_tells() -> None:
    process, now_s = _process(0.5, 10)
    assert set(process.expected(now_s).output_tokens) == {400}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_arrivals_promise_none(count: int) -> None:
    process, now_s = _process(0.5, count)
    assert len(process.expected(now_s + 0.1)) == 0


def test_requests_there_before_the_first_look_are_not_arrivals() -> None:
    process = ArrivalProcess(lambda _: None)
    process.note([_facts(i) for i in range(50)], 100.0)
    assert process.rate_per_s(101.0) == 0.0


def test_many_that_show_at_once_are_no_rate() -> None:
    process, _ = _process(0.5, 0)
    process.note([_facts(i) for i in range(60)], 100.0)
    assert process.rate_per_s(100.001) <= 60.0


def test_a_clock_that_is_set_back_starts_anew() -> None:
    process, now_s = _process(0.5, 40)
    process.note([_facts(99)], now_s - 1000.0)
    assert process.rate_per_s(now_s - 999.0) == 0.0
    process.note((), now_s - 1000.5)


def test_lengths_outlast_the_requests_they_belong_to() -> None:
    known = {f"r{i}": LengthDistribution.point(20) for i in range(6)}
    process = ArrivalProcess(known.get)
    process.note((), 0.0)
    for index in range(6):
        process.note((_facts(index, max_tokens=4000),), 2.0 * (index + 1))
        del known[f"r{index}"]
    assert set(process.expected(12.0).output_tokens) == {20}
