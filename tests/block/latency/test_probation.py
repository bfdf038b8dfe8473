"""Steps of another speed are learned from once it has lasted, and forgotten if it has not."""

from __future__ import annotations

import numpy as np
import pytest

from block.latency.probation import LASTING_S, LASTING_STEPS, Fresh, Probation

STEPS = 16


def _fresh(change: float, *, known: bool = True, span_s: float = 2.0) -> Fresh:
    steps = np.zeros((STEPS, 1))
    return Fresh(steps, steps, np.full(STEPS, span_s / STEPS), change, known)


def _admit(probation: Probation, fresh: Fresh) -> tuple[list[Fresh], float]:
    return probation.admit(fresh, settled=True)


def test_steps_as_expected_are_learned_from_at_once() -> None:
    fresh = _fresh(1.0)
    assert _admit(Probation(), fresh) == ([fresh], 1.0)


def test_a_moment_is_forgotten() -> None:
    probation = Probation()
    assert _admit(probation, _fresh(1.5)) == ([], 1.0)
    assert _admit(probation, _fresh(1.6)) == ([], 1.0)
    for after in (_fresh(1.0, span_s=3.0), _fresh(1.0), _fresh(1.0)):
        assert _admit(probation, after) == ([after], 1.0)


def test_kinds_that_are_not_known_tell_no_speed() -> None:
    fresh = _fresh(2.3, known=False)
    assert _admit(Probation(), fresh) == ([fresh], 1.0)


def test_in_a_moment_of_known_kinds_unknown_ones_wait_with_them() -> None:
    probation = Probation()
    _admit(probation, _fresh(2.0))
    assert _admit(probation, _fresh(2.0, known=False)) == ([], 1.0)


def test_before_the_engine_has_settled_each_speed_is_followed() -> None:
    fresh = _fresh(0.2)
    assert Probation().admit(fresh, settled=False) == ([fresh], 0.2)


@pytest.mark.parametrize("change", [1.5, 0.6])
def test_what_lasts_is_the_engines_own_speed(change: float) -> None:
    probation, count = Probation(), LASTING_STEPS // STEPS
    for _ in range(count - 1):
        assert _admit(probation, _fresh(change)) == ([], 1.0)
    released, lasting = _admit(probation, _fresh(change))
    assert len(released) == count
    assert lasting == pytest.approx(change)


def test_short_interruptions_do_not_begin_it_anew() -> None:
    probation, usual, followed = Probation(), _fresh(1.0, span_s=0.2), False
    for number in range(2 * LASTING_STEPS // STEPS):
        _, lasting = _admit(probation, usual if number % 4 == 3 else _fresh(1.5))
        followed = followed or lasting == pytest.approx(1.5)
    assert followed


@pytest.mark.parametrize(("count", "span_s"), [(LASTING_STEPS // STEPS - 1, 10.0), (100, 0.1)])
def test_neither_few_steps_nor_a_few_seconds_are_lasting(count: int, span_s: float) -> None:
    probation = Probation()
    assert count * span_s < LASTING_S or count * STEPS < LASTING_STEPS
    for _ in range(count):
        assert _admit(probation, _fresh(1.5, span_s=span_s)) == ([], 1.0)
