"""Steps of another speed are learned from once it has lasted, and forgotten if it has not."""

from __future__ import annotations

import numpy as np
import pytest

from block.latency.probation import LASTING_S, LASTING_STEPS, Fresh, Probation

STEPS = 16


def _fresh(change: float, start_s: float, *, known: bool = True, lasts_s: float = 2.0) -> Fresh:
    steps = np.zeros((STEPS, 1))
    return Fresh(steps, steps, steps[:, 0], change, known, start_s, start_s + lasts_s)


def test_steps_as_expected_are_learned_from_at_once() -> None:
    fresh = _fresh(1.0, 0.0)
    assert Probation().admit(fresh) == ([fresh], 1.0)


def test_a_moment_is_forgotten() -> None:
    probation = Probation()
    assert probation.admit(_fresh(1.5, 0.0)) == ([], 1.0)
    assert probation.admit(_fresh(1.6, 2.0)) == ([], 1.0)
    after = _fresh(1.0, 4.0)
    assert probation.admit(after) == ([after], 1.0)


def test_kinds_that_were_not_known_are_learned_from_even_so() -> None:
    probation = Probation()
    unknown, after = _fresh(2.0, 0.0, known=False), _fresh(1.0, 4.0)
    probation.admit(unknown)
    assert probation.admit(after) == ([unknown, after], 1.0)


def test_unknown_kinds_of_a_moment_that_known_ones_show_too_are_forgotten() -> None:
    probation, after = Probation(), _fresh(1.0, 4.0)
    probation.admit(_fresh(2.0, 0.0, known=False))
    probation.admit(_fresh(2.0, 2.0))
    assert probation.admit(after) == ([after], 1.0)


@pytest.mark.parametrize("change", [1.5, 0.6])
def test_what_lasts_is_the_engines_own_speed(change: float) -> None:
    probation, count = Probation(), LASTING_STEPS // STEPS
    for number in range(count - 1):
        assert probation.admit(_fresh(change, 2.0 * number)) == ([], 1.0)
    released, lasting = probation.admit(_fresh(change, LASTING_S))
    assert len(released) == count
    assert lasting == pytest.approx(change)


@pytest.mark.parametrize(("count", "lasts_s"), [(LASTING_STEPS // STEPS - 1, 10.0), (100, 0.1)])
def test_neither_few_steps_nor_a_few_seconds_are_lasting(count: int, lasts_s: float) -> None:
    probation = Probation()
    for number in range(count):
        released, lasting = probation.admit(_fresh(1.5, lasts_s * number, lasts_s=lasts_s))
        assert (released, lasting) == ([], 1.0)
