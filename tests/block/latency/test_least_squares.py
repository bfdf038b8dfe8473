"""The solver against scipy's, and the robust fit against outliers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from block.latency.least_squares import Bounds, fit_relative, solve_within


@given(seed=st.integers(0, 10_000), terms=st.integers(1, 16))
def test_bounded_solutions_are_as_good_as_scipys(seed: int, terms: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(40, terms)) * 10 ** random.uniform(-1, 1, terms)
    wanted = random.normal(size=40)
    lower, upper = -random.uniform(0, 0.2, terms), random.uniform(0, 0.2, terms)
    mine = solve_within(rows.T @ rows, rows.T @ wanted, lower, upper)
    theirs = lsq_linear(rows, wanted, (lower, upper), tol=1e-12).x
    assert (mine >= lower).all()
    assert (mine <= upper).all()
    assert np.sum((rows @ mine - wanted) ** 2) <= np.sum((rows @ theirs - wanted) ** 2) * (1 + 1e-6)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_outliers_do_not_pull(share: float) -> None:
    random = np.random.default_rng(1)
    rows = np.column_stack([np.ones(500), random.uniform(0, 10, 500)])
    seconds = rows @ [1.0, 0.5] * np.exp(random.normal(0, 0.02, 500))
    seconds[random.random(500) < share] += 60
    terms, scale = fit_relative(rows, seconds, Bounds.non_negative(2), np.array([1.0, 0.0]), rounds=12)
    assert terms == pytest.approx([1.0, 0.5], rel=0.03)
    assert scale < 0.05
