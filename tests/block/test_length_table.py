"""Many distributions at once give what each gives alone."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from block.length_table import LengthTable
from block.lengths import LengthDistribution, scenario_levels_of


def _distribution(source: random.Random) -> LengthDistribution:
    count = source.randint(1, 9)
    levels = sorted({source.uniform(0.01, 0.99) for _ in range(count)})
    # Whole tokens among them, and repeated ones: steps in the distribution.
    highest = source.choice([0, 3, 50, 2000])
    tokens = sorted(source.choice([source.uniform(0, highest), source.randint(0, highest)]) for _ in levels)
    if source.random() < 0.2:
        tokens = [tokens[0]] * len(tokens)
    return LengthDistribution(tuple(zip(levels, tokens, strict=True)))


def _generated(source: random.Random, length: LengthDistribution) -> int:
    _, tokens = source.choice(length.quantiles)
    return max(0, source.choice([0, 1, round(tokens) - 1, round(tokens), source.randint(0, 3000)]))


@given(seed=st.integers(0, 2**32), scenarios=st.integers(1, 64))
def test_a_table_gives_the_numbers_of_its_rows(seed: int, scenarios: int) -> None:
    source = random.Random(seed)
    lengths = [_distribution(source) for _ in range(source.randint(0, 30))]
    generated = np.array([_generated(source, length) for length in lengths], np.int64)
    levels = scenario_levels_of([f"r{source.random()}" for _ in lengths], scenarios)
    table = LengthTable(lengths)
    totals, means = table.totals(levels, generated), table.means(generated)
    assert totals.shape == (len(lengths), scenarios)
    for row, (length, done) in enumerate(zip(lengths, generated.tolist(), strict=True)):
        alone = length.totals(levels[row], done)
        np.testing.assert_allclose(totals[row], alone, rtol=1e-12)
        np.testing.assert_array_equal(np.rint(totals[row]), np.rint(alone))
        np.testing.assert_allclose(means[row], length.mean(done), rtol=1e-12)
