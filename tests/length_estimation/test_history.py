"""History learns what came lately, per model and prompt length, in bounded memory."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from length_estimation.estimator import Completion, EstimationRequest, Learner
from length_estimation.history import MODELS, HistoryEstimator
from length_estimation.length_histogram import BINS, LengthHistogram, quantiles_of
from length_estimation.quantiles import LEVELS, mean_of


def ask(model="m", prompt_tokens=20, max_tokens=100_000):
    return EstimationRequest(prompt_tokens, max_tokens, model=model)


def teach(history, lengths, cut=lambda _: False, **asked):
    for length in lengths:
        request = ask(**asked)
        history.learn(Completion(request, history.estimate(request), length, cut(length)))


def test_before_it_has_seen_anything_it_guesses_widely():
    estimate = HistoryEstimator(256).estimate(ask())
    assert estimate.median_tokens == pytest.approx(256, rel=0.15)
    assert estimate.quantiles[-1][1] > 4 * estimate.quantiles[0][1]


def test_it_finds_the_quantiles_of_what_it_sees():
    history = HistoryEstimator(256)
    draw = np.random.default_rng(0)
    lengths = np.maximum(1, draw.lognormal(4, 0.7, 3000)).astype(int)
    teach(history, lengths.tolist())
    said = [tokens for _, tokens in history.estimate(ask()).quantiles]
    assert said == pytest.approx(np.quantile(lengths, LEVELS), rel=0.1)


def test_models_and_prompt_lengths_are_told_apart():
    history = HistoryEstimator(256)
    teach(history, [10] * 200, model="a", prompt_tokens=20)
    teach(history, [900] * 200, model="a", prompt_tokens=900)
    teach(history, [100] * 200, model="b", prompt_tokens=20)
    said = {
        (model, prompt): history.estimate(ask(model, prompt)).median_tokens
        for model, prompt in (("a", 20), ("a", 900), ("b", 20), ("b", 900))
    }
    assert said == pytest.approx({("a", 20): 10, ("a", 900): 900, ("b", 20): 100, ("b", 900): 100}, rel=0.15)


def test_responses_cut_at_their_limit_do_not_pass_for_short_ones():
    draw = np.random.default_rng(1)
    lengths = np.maximum(1, draw.lognormal(5, 0.8, 4000)).astype(int)
    limits = draw.choice([60, 200, 4000], len(lengths))
    blind, aware = HistoryEstimator(256), HistoryEstimator(256)
    for length, limit in zip(lengths, limits, strict=True):
        seen = int(min(length, limit))
        for history, cut in ((blind, False), (aware, bool(length > limit))):
            history.learn(Completion(ask(), history.estimate(ask()), seen, cut))
    truth = np.quantile(lengths, 0.75)
    assert dict(aware.estimate(ask()).quantiles)[0.75] == pytest.approx(truth, rel=0.15)
    assert dict(blind.estimate(ask()).quantiles)[0.75] < 0.8 * truth


def test_it_follows_a_change():
    history = HistoryEstimator(256)
    teach(history, [50] * 4000)
    teach(history, [500] * 6000)
    assert history.estimate(ask()).median_tokens == pytest.approx(500, rel=0.15)


def test_it_remembers_a_bounded_number_of_models_and_can_forget():
    history = HistoryEstimator(256)
    for number in range(MODELS + 20):
        teach(history, [5], model=f"m{number}")
    assert len(history._models) == MODELS
    teach(history, [5] * 300, model="kept")
    history.reset("kept")
    assert "kept" not in history._models
    teach(history, [900] * 300, model="other")
    history.reset("other")
    assert history.estimate(ask("other")).median_tokens == pytest.approx(5, rel=0.2)  # as others, of 5
    for number in range(MODELS + 20):
        history.reset(f"m{number}")
    assert history.estimate(ask("kept")).median_tokens == pytest.approx(256, rel=0.15)
    teach(history, [5] * 300, model="kept")
    history.reset()
    assert history.estimate(ask("kept")).median_tokens == pytest.approx(256, rel=0.15)
    assert isinstance(history, Learner)


@given(seed=st.integers(0, 2**32))
def test_shares_are_a_distribution_whatever_was_counted(seed):
    draw = random.Random(seed)
    histogram = LengthHistogram()
    for _ in range(draw.randrange(60)):
        histogram.add(draw.choice([1, 2, 50, 10**6, 2**31]), draw.random() < 0.5)
    shares = histogram.shares(np.full(BINS, 1 / BINS), draw.choice([0.01, 12.0]))
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1)
    tokens = quantiles_of(shares, np.array(LEVELS))
    assert (np.diff(tokens) >= 0).all()


def test_the_mean_is_that_of_the_drawn_distribution():
    exact = np.random.default_rng(0).exponential(100, 200_000)
    quantiles = np.quantile(exact, LEVELS).tolist()
    assert mean_of(LEVELS, quantiles, 1e9) == pytest.approx(100, rel=0.05)
    levels = (np.arange(10_000) + 0.5) / 10_000
    between = np.interp(levels, (0, *LEVELS), (0.5 * quantiles[0], *quantiles))
    for most in (5.0, 60.0, float(quantiles[-1])):
        assert mean_of(LEVELS, quantiles, most) == pytest.approx(np.minimum(between, most).mean(), rel=1e-3)
    assert mean_of((0.5,), (70.0,), 50.0) == 50
