"""The search against curves whose crossing is known, and what it costs."""

from __future__ import annotations

import pytest

from block.errors import StateError
from exp.experiment.capacity_search import fewest, highest_rate


@pytest.mark.parametrize("guess", [0.5, 10.0, 500.0])
def test_the_crossing_is_found_from_wherever_it_begins(guess: float) -> None:
    asked: list[float] = []

    def queueing(rate: float) -> float:
        asked.append(rate)
        return 0.1 / (1 - rate / 30.0) if rate < 30.0 else 1000.0

    # 0.1 / (1 - r / 30) = 3
    assert highest_rate(queueing, 3.0, guess, 0.01) == pytest.approx(29.0, rel=0.011)
    assert len(asked) < 20
    assert len(set(asked)) == len(asked)


def test_an_slo_that_is_never_met_or_never_missed_is_told() -> None:
    with pytest.raises(StateError, match="lies above everything"):
        highest_rate(lambda _: 0.1, 3.0, 1.0, 0.01)
    with pytest.raises(StateError, match="lies below everything"):
        highest_rate(lambda _: 10.0, 3.0, 1.0, 0.01)


def test_a_fleet_that_is_all_but_idle_is_not_looked_at_further() -> None:
    asked: list[float] = []

    def slow(rate: float) -> float:
        asked.append(rate)
        return 10.0

    with pytest.raises(StateError, match=r"lies below everything from 20 to 0\.009"):
        highest_rate(slow, 3.0, 20.0, 0.01)
    assert len(asked) <= 12


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 13])
def test_the_fewest_that_are_good(needed: int) -> None:
    asked: list[int] = []

    def good(count: int) -> bool:
        asked.append(count)
        return count >= needed

    assert fewest(good, 13) == needed
    assert len(set(asked)) == len(asked) <= 8


def test_none_is_enough() -> None:
    assert fewest(lambda _: False, 10) is None
