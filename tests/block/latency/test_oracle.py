"""Samples have the recorded steps' mean, spread and memory, region by region, and say when they guess."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from packs import TRUTH, traffic_pack

from block.errors import PackError
from block.latency.oracle import StepOracle
from block.types import BatchShape

DECODES = BatchShape(0, 10, 4000, 0, 10)
PROMPT = BatchShape(400, 6, 4000, 160_000, 7)


def samples(oracle: StepOracle, shape: BatchShape, count: int = 4000) -> np.ndarray:
    return np.array([oracle.sample(shape).seconds for _ in range(count)])


def noisy(
    spread_of: Callable[[BatchShape], float], share: float = 0.0, persistence: float = 0.0, seed: int = 3
):
    """True seconds with log-normal noise of a mean of 1, part of it slow."""
    random, slow = np.random.default_rng(seed), 0.0

    def seconds(shape: BatchShape) -> float:
        nonlocal slow
        slow = persistence * slow + math.sqrt(1 - persistence**2) * random.normal()
        normal = math.sqrt(share) * slow + math.sqrt(1 - share) * random.normal()
        spread = spread_of(shape)
        return TRUTH.seconds(shape) * math.exp(spread * normal - spread**2 / 2)

    return seconds


@pytest.fixture(scope="module")
def uneven() -> StepOracle:
    """Decodes spread by 3 %, steps with prompt tokens by 20 %."""
    spread = noisy(lambda shape: 0.2 if shape.prefill_tokens else 0.03)
    return StepOracle(traffic_pack(spread, 400, noise=0.0), seed=1)


def test_means_are_the_truth(uneven: StepOracle) -> None:
    for shape, within in ((DECODES, 0.01), (PROMPT, 0.05)):
        assert samples(uneven, shape).mean() == pytest.approx(TRUTH.seconds(shape), rel=within)
        assert uneven.mean(shape).seconds == pytest.approx(TRUTH.seconds(shape), rel=within)


def test_spread_is_that_of_the_region(uneven: StepOracle) -> None:
    decodes, prompts = samples(uneven, DECODES), samples(uneven, PROMPT)
    assert np.std(decodes) / np.mean(decodes) == pytest.approx(0.03, rel=0.2)
    assert np.std(prompts) / np.mean(prompts) == pytest.approx(0.2, rel=0.25)


def test_a_bend_that_the_form_cannot_follow_is_a_bias_of_its_region() -> None:
    def bent(shape: BatchShape) -> float:
        return TRUTH.seconds(shape) * (1.3 if shape.context_tokens > 8_000 else 1.0)

    pack = traffic_pack(bent, 400, rate_per_s=6)
    oracle = StepOracle(pack, seed=1)
    sampled = np.array([oracle.sample(shape).seconds for shape in pack.shapes()])
    deep = pack.context_tokens > 17_000
    assert np.count_nonzero(deep) > 100
    assert sampled[deep].sum() / pack.duration_s[deep].sum() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("share", "persistence"), [(0.0, 0.0), (0.6, 0.95), (0.9, 0.8)])
def test_memory_is_found_and_played_back(share: float, persistence: float) -> None:
    oracle = StepOracle(traffic_pack(noisy(lambda _: 0.1, share, persistence), 1500, noise=0.0), seed=2)
    drawn = np.log(samples(oracle, DECODES, 20_000))
    drawn = (drawn - drawn.mean()) / drawn.std()
    for lag in (1, 5, 20):
        expected = share * persistence**lag
        assert float(np.mean(drawn[lag:] * drawn[:-lag])) == pytest.approx(expected, abs=0.09), lag


def test_the_same_seed_gives_the_same_samples() -> None:
    pack = traffic_pack(duration_s=30)
    first, again, other = (samples(StepOracle(pack, seed), DECODES, 50).tolist() for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("shape", "covered"),
    [
        (DECODES, True),
        (PROMPT, True),
        (BatchShape(0, 10, 400_000, 0, 10), False),
        (BatchShape(4096, 0, 4096, 4096**2, 1), False),
        (BatchShape(0, 400, 4000, 0, 400), False),
        # As many tokens and as much context as the prompt above, of more requests or of deeper chunks.
        (BatchShape(200, 206, 4000, 160_000, 207), False),
        (BatchShape(400, 6, 4000, 100_000_000, 7), False),
    ],
)
def test_unlike_shapes_are_said_to_be_guessed(uneven: StepOracle, shape: BatchShape, covered: bool) -> None:
    assert uneven.sample(shape).covered is covered
    assert uneven.mean(shape).covered is covered


def test_beyond_the_recorded_it_goes_on_straight(uneven: StepOracle) -> None:
    deep = BatchShape(0, 48, 100_000, 0, 48)
    assert uneven.mean(deep).seconds == pytest.approx(TRUTH.seconds(deep), rel=0.1)


def test_the_engines_own_time_is_an_oracle_of_its_own() -> None:
    oracle = StepOracle(traffic_pack(duration_s=60, host_s=0.002), 1, "host")
    assert samples(oracle, DECODES, 100).mean() == pytest.approx(0.002, rel=0.01)


def test_pauses_stay_in_the_mean() -> None:
    pack = traffic_pack(duration_s=300, pauses=0.01)
    oracle = StepOracle(pack, seed=1)
    sampled = sum(oracle.sample(shape).seconds for shape in pack.shapes())
    assert sampled / pack.duration_s.sum() == pytest.approx(1.0, abs=0.1)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(PackError, match="needs at least 50"):
        StepOracle(traffic_pack(duration_s=0.5), seed=1)


def test_a_sample_costs_microseconds(uneven: StepOracle) -> None:
    shapes = [BatchShape(0, n, 100 * n, 0, n) for n in range(1, 40)]
    for shape in shapes:
        uneven.sample(shape)
    best_s = math.inf
    for _ in range(5):
        started_s = time.thread_time()
        for shape in shapes * 10:
            uneven.sample(shape)
        best_s = min(best_s, (time.thread_time() - started_s) / len(shapes) / 10)
    assert best_s < 20e-6
