"""Time outside of the engine: learned from routers' first bytes, robust and bounded."""

from __future__ import annotations

from predictor.outside import MOST_S, REMEMBERED, OutsideTime


def _learned(samples: list[float], engine_ttft_s: float = 0.1) -> OutsideTime:
    outside = OutsideTime()
    for index, sample in enumerate(samples):
        outside.asked(str(index), engine_ttft_s)
        outside.served(str(index), engine_ttft_s + sample)
    return outside


def test_it_is_the_median_of_what_is_beyond_the_engines_part() -> None:
    outside = _learned([0.01] * 20 + [3.0] * 5)
    assert abs(outside.seconds - 0.01) < 1e-9


def test_a_few_requests_say_nothing_yet() -> None:
    assert _learned([0.01] * 3).seconds == 0.0


def test_it_is_never_negative_nor_beyond_its_bound() -> None:
    assert _learned([-0.05] * 20).seconds == 0.0
    assert _learned([30.0] * 20).seconds == MOST_S


def test_the_latest_requests_count() -> None:
    assert abs(_learned([0.5] * 200 + [0.02] * 64).seconds - 0.02) < 1e-9


def test_first_bytes_of_unknown_requests_are_ignored_and_forgotten_questions_too() -> None:
    outside = OutsideTime()
    for index in range(REMEMBERED + 8):
        outside.asked(str(index), 0.1)
    for index in range(8):
        outside.served(str(index), 0.9)
    assert outside.seconds == 0.0


def test_times_that_cannot_be_are_ignored() -> None:
    outside = _learned([0.02] * 10)
    for index, ttft_s in enumerate([-5.0, 1e308, float("nan")] * 30):
        outside.asked(f"x{index}", 0.1)
        outside.served(f"x{index}", ttft_s)
    assert abs(outside.seconds - 0.02) < 1e-9
