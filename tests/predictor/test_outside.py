"""Time outside of the engine: learned from routers' first bytes, robust and bounded."""

from __future__ import annotations

from predictor.outside import MOST_S, REMEMBERED, OutsideTime


def _learned(samples: list[float], engine_ttft_s: float = 0.1) -> OutsideTime:
    outside = OutsideTime()
    for index, sample in enumerate(samples):
        outside.asked(str(index), engine_ttft_s, 5.0)
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
        outside.asked(str(index), 0.1, 5.0)
    for index in range(8):
        outside.served(str(index), 0.9)
    assert outside.seconds == 0.0


def test_times_that_cannot_be_are_ignored() -> None:
    outside = _learned([0.02] * 10)
    for index, ttft_s in enumerate([-5.0, 1e308, float("nan")] * 30):
        outside.asked(f"x{index}", 0.1, 5.0)
        outside.served(f"x{index}", ttft_s)
    assert abs(outside.seconds - 0.02) < 1e-9


def test_the_way_there_is_what_passes_until_the_engine_has_it() -> None:
    outside = _learned([0.02] * 10)
    assert outside.there_s == 0.0
    for index in range(10):
        outside.asked(f"x{index}", 0.1, 7.0)
        outside.arrived(f"x{index}", 7.004)
        outside.arrived("never asked about", 9.0)
    assert abs(outside.there_s - 0.004) < 1e-9


def test_the_way_there_is_no_longer_than_all_time_outside_and_never_negative() -> None:
    for way_s, expected_s in ((0.5, 0.02), (-0.5, 0.0)):
        outside = _learned([0.02] * 10)
        for index in range(10):
            outside.asked(f"x{index}", 0.1, 7.0)
            outside.arrived(f"x{index}", 7.0 + way_s)
        assert abs(outside.there_s - expected_s) < 1e-9
