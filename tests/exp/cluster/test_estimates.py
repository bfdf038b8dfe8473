"""Estimates are as wrong as they say, and know how wrong they are."""

from __future__ import annotations

import numpy as np
import pytest

from block.errors import ConfigError
from exp.cluster.estimates import LEVELS, EstimateSpec, estimate_lengths

RANDOM = np.random.default_rng(1)
PROMPTS = RANDOM.integers(1, 3000, 6000)
OUTPUTS = np.maximum(np.exp(RANDOM.normal(5.3, 0.9, 6000)).astype(np.int64), 1)


def test_an_oracle_tells_the_truth_and_a_constant_the_same_of_all() -> None:
    oracle = estimate_lengths(EstimateSpec("oracle"), PROMPTS, OUTPUTS)
    assert (oracle.tokens[:, 0] == OUTPUTS).all()
    constant = estimate_lengths(EstimateSpec("constant", constant_tokens=77), PROMPTS, OUTPUTS)
    assert (constant.tokens == 77).all()


def test_a_guess_is_off_by_its_error() -> None:
    guess = estimate_lengths(EstimateSpec("guess", 0.5), PROMPTS, OUTPUTS)
    assert np.log(guess.tokens[:, 0] / OUTPUTS).std() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("kind", ["distribution", "history"])
def test_quantiles_cover_as_they_claim(kind: str) -> None:
    expected = estimate_lengths(EstimateSpec(kind, 0.5), PROMPTS, OUTPUTS)
    for level, tokens in zip(LEVELS, expected.tokens.T, strict=True):
        assert (tokens >= OUTPUTS).mean() == pytest.approx(level, abs=0.03)


def test_the_distribution_of_a_guess_is_narrower_than_history() -> None:
    spreads = {
        kind: np.log(tokens[:, -2] / tokens[:, 1]).mean()
        for kind in ("distribution", "history")
        for tokens in [estimate_lengths(EstimateSpec(kind, 0.5), PROMPTS, OUTPUTS).tokens]
    }
    assert spreads["distribution"] < 0.7 * spreads["history"]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lengths = 'best': unknown; known here: oracle"):
        estimate_lengths(EstimateSpec("best"), PROMPTS, OUTPUTS)
