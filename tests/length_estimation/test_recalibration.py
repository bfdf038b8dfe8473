"""Recalibration makes any estimator's quantiles hold, model by model, and can be undone."""

from __future__ import annotations

import numpy as np
import pytest

from length_estimation.conformal import censored_shifts, conformal_shifts
from length_estimation.estimator import Completion, ConstantEstimator, EstimationRequest, LengthEstimate
from length_estimation.history import HistoryEstimator
from length_estimation.quantiles import LEVELS
from length_estimation.recalibration import MODELS, Recalibrated


class Overconfident:
    """Says a narrow distribution around half of what is true."""

    def estimate(self, request: EstimationRequest) -> LengthEstimate:
        tokens = [request.prompt_tokens * (0.48 + 0.01 * i) for i in range(len(LEVELS))]
        return LengthEstimate.of(LEVELS, tokens, request.max_tokens, "narrow", "1")


def ask(prompt_tokens, model="m", max_tokens=10**6):
    return EstimationRequest(prompt_tokens, max_tokens, model=model)


def run(estimator, count, sigma=0.5, factor=1.0, model="m", seed=0):
    """Coverage of the 80 % interval, each length judged before it is learned."""
    draw = np.random.default_rng(seed)
    covered = []
    for _ in range(count):
        request = ask(int(draw.integers(50, 2000)), model)
        length = max(1, round(request.prompt_tokens * factor * draw.lognormal(0, sigma)))
        estimate = estimator.estimate(request)
        said = dict(estimate.quantiles)
        if len(said) > 1:
            covered.append(said[0.1] <= length <= said[0.9])
        estimator.learn(Completion(request, estimate, length))
    return float(np.mean(covered[count // 2 :]))


def test_an_overconfident_estimator_comes_to_cover_what_it_says():
    recalibrated = Recalibrated(Overconfident())
    assert run(recalibrated, 3000) == pytest.approx(0.8, abs=0.03)
    assert recalibrated.estimate(ask(1000)).median_tokens == pytest.approx(1000, rel=0.1)


def test_a_point_becomes_a_distribution():
    recalibrated = Recalibrated(ConstantEstimator(7))
    assert run(recalibrated, 2000) == pytest.approx(0.8, abs=0.03)
    assert len(recalibrated.estimate(ask(5)).quantiles) == len(LEVELS)


def test_it_follows_when_answers_become_longer():
    recalibrated = Recalibrated(Overconfident())
    run(recalibrated, 1000)
    assert run(recalibrated, 2000, factor=4.0, seed=1) == pytest.approx(0.8, abs=0.04)


def test_models_are_corrected_apart_and_reset_apart():
    recalibrated = Recalibrated(Overconfident())
    run(recalibrated, 400, model="a")
    run(recalibrated, 400, model="b", factor=3.0)
    raw = Overconfident().estimate(ask(1000)).median_tokens
    said = [recalibrated.estimate(ask(1000, model)).median_tokens for model in "abc"]
    assert said == pytest.approx([1000, 3000, raw], rel=0.15)
    recalibrated.reset("a")
    assert recalibrated.estimate(ask(1000, "a")).median_tokens == raw
    assert recalibrated.estimate(ask(1000, "b")).median_tokens > 2 * raw
    recalibrated.reset()
    assert recalibrated.estimate(ask(1000, "b")).median_tokens == raw


def test_the_inner_estimator_learns_too_and_the_limit_holds():
    inner = HistoryEstimator(256)
    recalibrated = Recalibrated(inner)
    run(recalibrated, 50)
    assert inner.estimate(ask(100)).version == "50"
    assert recalibrated.estimate(ask(1000, max_tokens=3)).quantiles[-1][1] <= 3


def test_a_single_completion_moves_little_and_models_are_bounded():
    recalibrated = Recalibrated(Overconfident())
    raw = recalibrated.estimate(ask(1000))
    recalibrated.learn(Completion(ask(1000), raw, 100_000))
    assert recalibrated.estimate(ask(1000)).median_tokens < 1.1 * raw.median_tokens
    for number in range(MODELS + 5):
        recalibrated.learn(Completion(ask(1000, f"m{number}"), raw, 5))
    assert recalibrated.estimate(ask(1000)).median_tokens == raw.median_tokens  # "m" was dropped


def test_completions_without_tokens_say_nothing():
    recalibrated = Recalibrated(Overconfident())
    recalibrated.learn(Completion(ask(1000), recalibrated.estimate(ask(1000)), 0))
    assert "+r" not in recalibrated.estimate(ask(1000)).version


def test_shifts_are_conformal():
    residuals = np.repeat(np.arange(1.0, 20.0)[:, None], 2, axis=1)
    assert conformal_shifts(residuals, np.array([0.5, 0.9])).tolist() == [10.0, 18.0]


def test_shifts_count_cut_responses_as_bounds():
    """Half of the responses are cut at random places: the quantiles of all of them are still found."""
    draw = np.random.default_rng(0)
    levels = np.array([0.25, 0.5, 0.75])
    whole = draw.normal(size=(4000, 1)).repeat(3, axis=1)
    bounds = draw.normal(0.3, 1.0, size=(4000, 1))
    cut = (bounds < whole)[:, 0]
    assert 0.3 < cut.mean() < 0.6
    seen = np.minimum(whole, bounds)
    assert censored_shifts(seen, cut, levels) == pytest.approx([-0.674, 0, 0.674], abs=0.06)
    assert conformal_shifts(seen, levels)[1] < -0.3


def test_without_cut_responses_both_shifts_are_the_same():
    residuals = np.random.default_rng(0).normal(size=(50, 3))
    levels = np.array([0.1, 0.5, 0.95])
    none = np.zeros(50, dtype=bool)
    assert censored_shifts(residuals, none, levels) == pytest.approx(conformal_shifts(residuals, levels))


def run_with_limit(estimator, count, limit, truth):
    """Every second request allows ``limit`` tokens only, and is cut there if it would go on."""
    draw = np.random.default_rng(5)
    for number in range(count):
        request = ask(1000, max_tokens=limit if number % 2 else 10**6)
        length = max(1, round(truth * draw.lognormal(0, 0.5)))
        estimate = estimator.estimate(request)
        cut = length >= request.max_tokens
        estimator.learn(Completion(request, estimate, min(length, request.max_tokens), cut))


def test_limits_do_not_pass_for_lengths():
    recalibrated = Recalibrated(Overconfident())
    run_with_limit(recalibrated, 2000, limit=20, truth=1000)
    quantiles = dict(recalibrated.estimate(ask(1000)).quantiles)
    assert quantiles[0.5] == pytest.approx(1000, rel=0.1)
    assert quantiles[0.1] == pytest.approx(1000 * np.exp(-1.28 * 0.5), rel=0.15)


def test_requests_that_are_all_cut_lower_nothing_and_raise_what_they_contradict():
    low, high = Recalibrated(Overconfident()), Recalibrated(Overconfident())
    raw = low.estimate(ask(1000)).median_tokens
    for _ in range(100):
        low.learn(Completion(ask(1000, max_tokens=16), low.estimate(ask(1000)), 16, cut=True))
        high.learn(Completion(ask(1000, max_tokens=4000), high.estimate(ask(1000)), 4000, cut=True))
    assert low.estimate(ask(1000)).median_tokens == pytest.approx(raw)
    assert high.estimate(ask(1000)).median_tokens == pytest.approx(4000, rel=0.05)
