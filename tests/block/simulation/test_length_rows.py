"""Rows of numbers give what the distributions give that they were made of."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from block.errors import StateError
from block.lengths import LengthDistribution
from block.simulation.length_rows import length_rows, mean_tokens, total_tokens


def _quantiles(source: random.Random) -> tuple[list[float], list[list[float]]]:
    """Levels that all share, and tokens at them: whole ones among them, and repeated ones."""
    levels = sorted({source.uniform(0.01, 0.99) for _ in range(source.randint(1, 9))})
    rows = []
    for _ in range(source.randint(1, 12)):
        highest = source.choice([0, 3, 50, 2000])
        row = sorted(source.choice([source.uniform(0, highest), source.randint(0, highest)]) for _ in levels)
        rows.append([row[0]] * len(row) if source.random() < 0.2 else row)
    return levels, rows


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rows_give_the_numbers_of_their_distributions(seed: int) -> None:
    source = random.Random(seed)
    levels, tokens = _quantiles(source)
    rows = length_rows(np.array(levels), np.array(tokens, np.float64))
    for row, values in zip(rows, tokens, strict=True):
        length = LengthDistribution(tuple(zip(levels, values, strict=True)))
        known = round(source.choice(values))
        done = max(0, source.choice([0, 1, known - 1, known, source.randint(0, 3000)]))
        level = source.uniform(0.001, 0.999)
        [total] = length.totals(np.array([level]), done)
        assert total_tokens(row, level, done) == pytest.approx(total, rel=1e-12)
        assert mean_tokens(row, done) == pytest.approx(length.mean(done), rel=1e-9)


@pytest.mark.parametrize(
    ("levels", "tokens"),
    [([0.5, 0.4], [1.0, 2.0]), ([0.5], [-1.0]), ([0.0], [1.0]), ([0.2, 0.8], [2.0, 1.0]), ([0.5], [np.nan])],
)
def test_what_is_no_distribution_is_refused(levels: list[float], tokens: list[float]) -> None:
    with pytest.raises(StateError, match="quantiles"):
        length_rows(np.array(levels), np.array([tokens]))
