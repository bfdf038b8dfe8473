"""How much of a present deviation lasts is learned, and used only as far."""

from __future__ import annotations

import math

import numpy as np
import pytest

from block.latency.pace import AHEAD, LATEST, Pace, lasting_share


def _drift(persistence: float, steps: int = 8192, seed: int = 3) -> np.ndarray:
    """Deviations of which ``persistence`` goes on to the next step; standard deviation 0.2."""
    random = np.random.default_rng(seed)
    shocks = random.normal(0.0, 0.2 * math.sqrt(1 - persistence**2), steps)
    values = [0.0]
    for shock in shocks.tolist():
        values.append(persistence * values[-1] + shock)
    return np.array(values[1:])


def _noted(deviations: np.ndarray) -> Pace:
    pace = Pace()
    for deviation in deviations.tolist():
        pace.note(math.exp(deviation), 1.0)
    pace.learn()
    return pace


def test_nothing_lasts_where_steps_deviate_independently() -> None:
    assert _noted(_drift(0.0)).share < 0.05


def test_all_lasts_where_the_engine_stays_as_it_is() -> None:
    assert _noted(np.repeat([0.3, -0.3], 2048)).share > 0.9


def test_small_deviations_do_not_tell_how_large_ones_last() -> None:
    assert _noted(np.repeat([0.005, -0.005], 2048)).share < 0.05


def test_a_drift_lasts_in_part_and_forecasts_are_better_for_it() -> None:
    deviations = _drift(0.98)
    past, future = deviations[:4096], deviations[4096:]
    share = lasting_share(past)
    assert 0.2 < share < 0.8
    starts = range(LATEST, len(future) - AHEAD, 8)
    latest = np.array([future[at - LATEST : at].mean() for at in starts])
    ahead = np.array([future[at : at + AHEAD].mean() for at in starts])
    used, without, whole = (np.abs(ahead - part * latest).mean() for part in (share, 0.0, 1.0))
    assert used < 0.95 * without
    assert used < 0.95 * whole


def test_a_pause_says_nothing_of_the_steps_to_come() -> None:
    pace = _noted(np.repeat([0.3, -0.3], 2048))
    before = pace.factor
    pace.note(100.0, 1.0)
    assert 1.0 < pace.factor / before < 1.1


def test_before_enough_steps_are_known_none_of_it_is_used() -> None:
    assert _noted(np.full(500, 0.2)).factor == 1.0


def test_what_another_model_was_off_by_is_forgotten() -> None:
    pace = _noted(np.repeat([0.3, -0.3], 2048))
    assert pace.factor == pytest.approx(math.exp(-0.3 * pace.share))
    pace.forget()
    assert pace.factor == 1.0
