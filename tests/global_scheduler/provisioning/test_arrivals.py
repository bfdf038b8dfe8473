"""What a window of counts tells of the arrivals, and what may be chance."""

from __future__ import annotations

import numpy as np
import pytest

from global_scheduler.provisioning.arrivals import ArrivalHistory
from global_scheduler.provisioning.base import ArrivalProcess


def told(counts: list[int], window_s: float = 120.0) -> ArrivalProcess:
    """The counts of looks 5 s apart, as the history tells them."""
    history, total = ArrivalHistory(window_s), 0
    history.note(0.0, 0)
    for number, count in enumerate(counts, 1):
        total += count
        history.note(5.0 * number, total)
    return history.process


def test_growth_that_may_be_chance_is_none_and_the_whole_window_tells_the_rate() -> None:
    found = [told(np.random.default_rng(seed).poisson(120, 24).tolist()) for seed in range(200)]
    assert sum(process.growth_per_s != 0 for process in found) < 20
    rates = [process.rate_per_s for process in found if process.growth_per_s == 0]
    assert np.std(rates) < 0.6  # Of half a window it would be above that.
    assert np.mean(rates) == pytest.approx(24.0, abs=0.1)


def test_growth_that_is_none_of_chance_is_seen_and_the_second_half_tells_the_rate() -> None:
    process = told([50] * 12 + [60] * 12)
    assert (process.rate_per_s, process.growth_per_s) == (12.0, 2.0)
    assert told([60] * 12 + [50] * 12).growth_per_s == -2.0


def test_a_step_is_no_burstiness_but_bursts_are() -> None:
    assert told([50] * 12 + [500] * 12).dispersion == 1.0
    assert told([0, 100] * 12).dispersion == 10.0


def test_bursts_make_chance_of_what_would_be_growth() -> None:
    assert told([0, 100] * 6 + [20, 100] * 6).growth_per_s == 0.0


def test_what_is_older_than_the_window_is_forgotten() -> None:
    assert told([500] * 40 + [50] * 25).rate_per_s == 10.0


def test_nothing_is_known_before_the_second_look() -> None:
    assert told([]) == ArrivalProcess()
    assert told([10]).rate_per_s == 2.0
