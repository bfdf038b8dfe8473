"""Response lengths as distributions, conditional on what has been generated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from block.errors import StateError
from block.lengths import LengthDistribution, scenario_levels

SPREAD = LengthDistribution(((0.1, 50.0), (0.5, 200.0), (0.9, 600.0)))
LEVELS = (np.arange(1000) + 0.5) / 1000


def test_quantiles_are_met() -> None:
    np.testing.assert_allclose(SPREAD.totals(np.array([0.1, 0.5, 0.9]), 0), [50, 200, 600])


def test_a_point_is_itself_until_it_is_outlived() -> None:
    point = LengthDistribution.point(100)
    assert set(point.totals(LEVELS, 99)) == {100.0}
    outlived = point.totals(LEVELS, 100)
    assert outlived.min() >= 101
    assert outlived.mean() == pytest.approx(125, abs=1)


def test_conditioning_agrees_with_sampling() -> None:
    drawn = SPREAD.totals(LEVELS, 0)
    for generated in (10, 60, 300, 800):
        survivors = drawn[drawn > generated]
        np.testing.assert_allclose(
            np.quantile(SPREAD.totals(LEVELS, generated), [0.25, 0.5, 0.75]),
            np.quantile(survivors, [0.25, 0.5, 0.75]),
            rtol=0.05,
        )


@pytest.mark.parametrize(
    "length",
    [
        SPREAD,
        LengthDistribution.point(33.5),
        LengthDistribution(((0.2, 0.0), (0.3, 40.0), (0.6, 40.0), (0.7, 55.5))),
        LengthDistribution(((0.3, 70.0), (0.4, 90.0))),
    ],
)
def test_the_mean_is_the_average_over_all_levels(length: LengthDistribution) -> None:
    levels = (np.arange(200_000) + 0.5) / 200_000
    for generated in (0, 1, 30, 39, 40, 54, 55, 60, 89, 90, 300, 599, 5000):
        average = float(length.totals(levels, generated).mean())
        assert length.mean(generated) == pytest.approx(average, rel=1e-4)


def test_beyond_all_quantiles_a_remainder_is_left() -> None:
    remainders = [SPREAD.mean(generated) - generated for generated in (700, 2000, 10_000)]
    assert remainders[0] == pytest.approx(remainders[1], rel=0.02)
    assert remainders[1] == pytest.approx(remainders[2], rel=0.02)
    assert remainders[0] == pytest.approx(400 / np.log(5), rel=0.05)


@given(st.integers(0, 10**6), st.integers(1, 64))
def test_totals_exceed_what_was_generated(generated: int, count: int) -> None:
    levels = scenario_levels("a", count)
    for length in (SPREAD, LengthDistribution.point(33)):
        totals = length.totals(levels, generated)
        assert np.isfinite(totals).all()
        assert (totals >= generated + 1).all()


@given(st.text(), st.integers(1, 64))
def test_scenario_levels_are_all_strata_in_a_fixed_order(name: str, count: int) -> None:
    levels = scenario_levels(name, count)
    np.testing.assert_allclose(np.sort(levels), (np.arange(count) + 0.5) / count)
    np.testing.assert_array_equal(levels, scenario_levels(name, count))


def test_different_requests_are_paired_differently() -> None:
    assert len({tuple(scenario_levels(f"r{i}", 8)) for i in range(50)}) > 10


@pytest.mark.parametrize(
    "quantiles",
    [
        (),
        ((0.0, 5.0),),
        ((1.0, 5.0),),
        ((0.5, -1.0),),
        ((0.5, float("nan")),),
        ((0.5, 9.0), (0.9, 3.0)),
        ((0.5, 1.0), (0.5, 2.0)),
        ((0.9, 1.0), (0.1, 2.0)),
    ],
)
def test_what_is_no_distribution_is_refused(quantiles) -> None:
    with pytest.raises(StateError, match="quantiles"):
        LengthDistribution(quantiles)
