"""Operators read off measurements, and operators fitted to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from block.errors import ConfigError, PackError
from vidur_adapter.estimators import ESTIMATORS, estimator, held_out_errors
from vidur_adapter.grid import Grid
from vidur_adapter.operator import Samples


def bilinear(n: float, kv: float) -> float:
    return 1e-6 * (5 + 0.1 * n + 0.002 * n * kv)


def samples(ns: tuple[int, ...] = (1, 4, 16, 64), kvs: tuple[int, ...] = (16, 256, 4096)) -> Samples:
    points = [(float(n), float(kv)) for n in ns for kv in kvs]
    return Samples("decode", ("n", "kv"), np.array(points), np.array([bilinear(*p) for p in points]))


@given(st.floats(1, 64), st.floats(16, 4096))
def test_a_grid_is_exact_where_the_operator_is_straight_along_each_axis(n: float, kv: float) -> None:
    timing = Grid(samples()).time(np.array([[n, kv]]))
    assert timing.seconds[0] == pytest.approx(bilinear(n, kv), rel=1e-9)
    assert timing.covered[0]


def test_beyond_the_measurements_the_last_line_goes_on_and_says_so() -> None:
    timing = Grid(samples()).time(np.array([[128.0, 256.0], [16.0, 100_000.0], [0.5, 256.0]]))
    assert timing.seconds[:2].tolist() == pytest.approx([bilinear(128, 256), bilinear(16, 100_000)])
    assert timing.seconds[2] == pytest.approx(bilinear(1, 256))  # below, the first value holds
    assert not timing.covered.any()


def test_beyond_measurements_that_end_with_a_fall_nothing_gets_quicker() -> None:
    noisy = Samples("x", ("n",), np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 2.5]))
    timing = Grid(noisy).time(np.array([[3.0], [8.0], [100.0]]))
    assert timing.seconds.tolist() == [2.75, 2.5, 2.5]
    assert timing.covered.tolist() == [True, False, False]


def test_a_ragged_grid_uses_what_each_slice_has() -> None:
    coarse, fine = samples((1, 64), (16, 4096)), samples((8,), (16, 64, 256, 1024, 4096))
    both = Samples(
        "decode",
        ("n", "kv"),
        np.vstack([coarse.shapes, fine.shapes]),
        np.concatenate([coarse.seconds, fine.seconds]),
    )
    assert Grid(both).time(np.array([[8.0, 700.0]])).seconds[0] == pytest.approx(bilinear(8, 700))


def test_repeated_measurements_count_as_their_median() -> None:
    repeated = Samples("x", ("n",), np.array([[2.0], [2.0], [2.0], [4.0]]), np.array([1.0, 9.0, 2.0, 4.0]))
    assert Grid(repeated).time(np.array([[2.0], [3.0]])).seconds.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(("name", "most"), [("grid", 1e-9), ("rising", 0.02), ("forest", 0.5)])
def test_estimators_know_shapes_that_they_have_not_seen(name: str, most: float) -> None:
    """The operator is made of the very terms that the rising form has; a forest only knows neighbours."""
    many = samples((1, 2, 4, 8, 16, 32, 64), (16, 64, 256, 1024, 4096))
    (error,) = held_out_errors([many], estimator(name))
    assert error < most


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_answers_beyond_its_measurements_with_a_flag(name: str) -> None:
    timing = estimator(name)(samples()).time(np.array([[4.0, 256.0], [500.0, 1e6]]))
    assert timing.covered.tolist() == [True, False]
    assert np.isfinite(timing.seconds).all()


def test_the_rising_form_never_falls() -> None:
    noisy = samples((1, 2, 4, 8, 16, 32, 64), (16, 64, 256, 1024, 4096))
    noise = np.random.default_rng(0).normal(1, 0.1, len(noisy.seconds))
    operator = estimator("rising")(Samples("x", noisy.axes, noisy.shapes, noisy.seconds * noise))
    along = operator.time(np.column_stack([np.arange(1, 100), np.full(99, 512)])).seconds
    assert (np.diff(along) >= 0).all()


def test_an_unknown_estimator_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="grid, rising, forest"):
        estimator("oracle")


def test_an_operator_without_measurements_is_refused() -> None:
    with pytest.raises(PackError, match="no measurements"):
        Samples("x", ("n",), np.empty((0, 1)), np.empty(0))
