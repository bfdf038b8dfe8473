"""Calibration heals wrong models within a minute, leaves right ones alone, and shrugs at pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from step_traffic import Traffic

from block.latency.base import KernelLatency
from block.latency.calibration import CalibratedLatency, OnlineCalibration
from block.latency.shapes import kernel_seconds, shape_array
from block.types import BatchShape, StepRecord

KNOTS = (1.0, 64.0, 256.0, 512.0)
TRUTH = KernelLatency(KNOTS, (0.020, 0.022, 0.040, 0.054), 7e-7, 7e-9, 2e-5)

TRAFFIC = {
    "steady": lambda seed: Traffic(seed, rate_per_s=3),
    "saturated": lambda seed: Traffic(seed, rate_per_s=6),
    "mostly idle": lambda seed: Traffic(seed, rate_per_s=0.2, output_tokens=60),
    "long prompts": lambda seed: Traffic(seed, rate_per_s=2, prompt_tokens=2000, output_tokens=40),
}


def _base(
    curve: float = 1.0, constant_s: float = 0.0, context: float = 1.0, products: float = 1.0
) -> CalibratedLatency:
    heights = tuple(curve * seconds + constant_s for seconds in TRUTH.token_seconds)
    kernel = KernelLatency(KNOTS, heights, context * 7e-7, products * 7e-9, 2e-5)
    return CalibratedLatency("profile", kernel)


WRONG = {
    "twice too fast": _base(0.5, 0, 0.5, 0.5),
    "four times too slow": _base(4, 0, 4, 4),
    "seven times too fast": _base(1 / 7, 0, 1 / 7, 1 / 7),
    "no constant": _base(1, -0.015),
    "context four times too dear": _base(context=4),
    "context free": _base(context=0),
    "prompt attention five times too dear": _base(products=5),
    "no shape at all": CalibratedLatency("flat", KernelLatency((1.0, 512.0), (0.03, 0.03))),
}


def _taught(base: CalibratedLatency, traffic: Traffic, duration_s: float = 60) -> OnlineCalibration:
    calibration = OnlineCalibration(base, "c0ffee")
    for record in traffic.records(TRUTH.seconds, duration_s):
        calibration.observe([record])
    return calibration


def _off(kernel: KernelLatency, traffic: Traffic, gap_s: float = 0.0) -> np.ndarray:
    """Relative errors on other traffic of the same kind, without noise."""
    shapes = shape_array(record.shape for record in traffic.records(TRUTH.seconds, 60))
    true = kernel_seconds(TRUTH, shapes) + gap_s
    return np.abs(kernel_seconds(kernel, shapes) / true - 1)


@pytest.mark.parametrize("kind", TRAFFIC)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_profile_heals_within_a_minute(wrong: str, kind: str) -> None:
    calibration = _taught(WRONG[wrong], TRAFFIC[kind](seed=1))
    off = _off(calibration.current().kernel, TRAFFIC[kind](seed=2))
    assert np.median(off) < 0.02
    assert np.quantile(off, 0.9) < 0.03
    assert calibration.status.recent_error < 0.02


@pytest.mark.parametrize("kind", TRAFFIC)
@pytest.mark.parametrize("wrong", ["twice too fast", "no constant", "no shape at all"])
def test_pauses_and_gaps_do_not_keep_it_from_healing(wrong: str, kind: str) -> None:
    traffic = TRAFFIC[kind](seed=1)
    traffic.gap_s, traffic.pauses = 0.002, 0.01
    calibration = _taught(WRONG[wrong], traffic)
    assert np.median(_off(calibration.current().kernel, TRAFFIC[kind](seed=2), 0.002)) < 0.02


@pytest.mark.parametrize("kind", TRAFFIC)
def test_noise_and_pauses_do_not_move_it_far(kind: str) -> None:
    traffic = TRAFFIC[kind](seed=1)
    traffic.noise, traffic.pauses = 0.08, 0.02
    off = _off(_taught(WRONG["twice too fast"], traffic).current().kernel, TRAFFIC[kind](seed=2))
    assert np.median(off) < 0.03


@pytest.mark.parametrize("kind", TRAFFIC)
def test_a_right_profile_stays_right(kind: str) -> None:
    calibration = OnlineCalibration(_base(), "c0ffee")
    worst = 0.0
    for count, record in enumerate(TRAFFIC[kind](seed=1).records(TRUTH.seconds, 60)):
        if calibration.observe([record]) and count > 60:
            worst = max(worst, float(np.median(_off(calibration.current().kernel, TRAFFIC[kind](seed=2)))))
    assert worst < 0.02  # while only a few kinds of step were seen
    assert np.median(_off(calibration.current().kernel, TRAFFIC[kind](seed=2))) < 0.002


def test_it_does_not_oscillate() -> None:
    calibration, versions = OnlineCalibration(WRONG["twice too fast"], "c0ffee"), [1.0]
    shape = BatchShape(0, 20, 8000, 0, 20)
    for record in Traffic(1, rate_per_s=3, noise=0.03).records(TRUTH.seconds, 120):
        if calibration.observe([record]) and calibration.status.samples > 300:
            versions += [calibration.current().seconds(shape) / TRUTH.seconds(shape)]
    assert np.ptp(versions) < 0.03


@pytest.mark.parametrize("gap_s", [0.0, 0.001, 0.004])
def test_the_gap_between_steps_is_part_of_the_time(gap_s: float) -> None:
    traffic = Traffic(1, rate_per_s=1.5, gap_s=gap_s)
    calibration = _taught(_base(), traffic)
    assert np.median(_off(calibration.current().kernel, Traffic(2, rate_per_s=1.5), gap_s)) < 0.01
    assert calibration.status.step_overhead_s == pytest.approx(gap_s, abs=1e-6)


def test_idle_time_is_not_learned() -> None:
    """One request of one prompt step and three decodes every 10 s."""
    calibration = OnlineCalibration(_base(), "c0ffee")
    for step in range(400):
        shape = BatchShape(100, 0, 100, 10_000, 1) if step % 4 == 0 else BatchShape(0, 1, 102, 0, 1)
        seconds = TRUTH.seconds(shape)
        start_s = 10.0 * (step // 4) + (step % 4) * 0.03
        end_s = start_s + seconds
        calibration.observe([StepRecord(step + 1, start_s, end_s, seconds, shape)])
    gap_s = 0.03 - TRUTH.seconds(BatchShape(0, 1, 102, 0, 1))
    assert calibration.status.step_overhead_s == pytest.approx(gap_s, rel=0.01)
    assert calibration.current().seconds(BatchShape(100, 0, 100, 10_000, 1)) < 0.06


def test_a_first_record_follows_nothing_whatever_its_number() -> None:
    calibration, shape = OnlineCalibration(_base(), "c0ffee"), BatchShape(0, 8, 3000, 0, 8)
    for step in range(10):
        calibration.observe([StepRecord(step, 7.0 + 0.05 * step, 7.03 + 0.05 * step, 0.03, shape)])
    assert calibration.status.step_overhead_s == pytest.approx(0.02)
    assert calibration.status.recent_error < 1.0
    assert calibration.current().seconds(shape) == pytest.approx(0.05, rel=0.02)


def test_a_slow_first_step_alone_changes_nothing_for_long() -> None:
    calibration = OnlineCalibration(_base(), "c0ffee")
    shape = BatchShape(0, 8, 3000, 0, 8)
    now_s, seconds = 0.0, TRUTH.seconds(shape)
    for step in range(16):
        duration_s = 30.0 if step == 0 else seconds
        calibration.observe([StepRecord(step + 1, now_s, now_s + duration_s, duration_s, shape)])
        now_s += duration_s
    assert calibration.current().seconds(shape) == pytest.approx(seconds, rel=0.03)


def test_it_follows_an_engine_that_becomes_slower() -> None:
    calibration = _taught(_base(), Traffic(1))
    for record in Traffic(3).records(lambda s: 1.3 * TRUTH.seconds(s), 60, start_s=5000.0):
        late = StepRecord(
            record.step + 100_000, record.submit_s, record.end_s, record.duration_s, record.shape
        )
        calibration.observe([late])
    shapes = [record.shape for record in Traffic(4).records(TRUTH.seconds, 30)]
    ratios = [calibration.current().seconds(shape) / TRUTH.seconds(shape) for shape in shapes]
    assert np.median(ratios) == pytest.approx(1.3, rel=0.03)


def test_heights_stay_within_bounds() -> None:
    calibration = OnlineCalibration(_base(), "c0ffee")
    for record in Traffic(1).records(lambda s: 100 * TRUTH.seconds(s), 600):
        calibration.observe([record])
    learned = calibration.current().kernel
    for tokens, seconds in zip(learned.token_knots, learned.token_seconds, strict=True):
        base = _base().kernel.seconds(BatchShape(int(tokens), 0, 0, 0, 0))
        assert base / 8 <= seconds <= 8 * base + 0.25 + 1e-9


def test_versions_and_reset() -> None:
    calibration = OnlineCalibration(WRONG["twice too fast"], "c0ffee")
    assert calibration.current() is WRONG["twice too fast"]
    records = list(Traffic(1).records(TRUTH.seconds, 20))
    assert not calibration.observe(records[:5])
    assert calibration.observe(records[5:])
    first = calibration.current()
    assert first.version == "profile+c1@c0ffee"
    kernel = first.kernel
    assert calibration.observe(list(Traffic(2).records(lambda s: 2 * TRUTH.seconds(s), 5))) is False  # old
    later = [
        StepRecord(r.step + 9000, r.submit_s, r.end_s, r.duration_s, r.shape)
        for r in Traffic(2).records(lambda s: 2 * TRUTH.seconds(s), 60)
    ]
    assert calibration.observe(later)
    assert calibration.current().version == "profile+c2@c0ffee"
    assert first.kernel is kernel
    calibration.reset()
    assert calibration.current() is WRONG["twice too fast"]
    assert calibration.status.samples == 0
    assert calibration.observe(records)


def test_it_learns_batches_larger_than_the_profile_knows() -> None:
    def bent(shape: BatchShape) -> float:
        return TRUTH.seconds(shape) * (1.0 if shape.tokens <= 512 else shape.tokens / 512)

    calibration = OnlineCalibration(_base(), "c0ffee", max_tokens=2048)
    traffic = Traffic(1, chunk=2048, prompt_tokens=2000, output_tokens=40, rate_per_s=1.5)
    assert not calibration.current().covers(BatchShape(2048, 0, 2048, 2048**2, 1))
    for record in traffic.records(bent, 120):
        calibration.observe([record])
    large = BatchShape(2040, 8, 2040 + 8 * 500, 2040**2, 10)
    assert calibration.current().covers(large)
    assert calibration.current().seconds(large) == pytest.approx(bent(large), rel=0.1)


@pytest.mark.parametrize("make", TRAFFIC.values(), ids=TRAFFIC)
def test_a_step_costs_little(make: Callable[..., Traffic]) -> None:
    records = list(make(seed=1).records(TRUTH.seconds, 60))
    calibration = OnlineCalibration(_base(0.5), "c0ffee", max_tokens=2048)
    start_s = time.process_time()
    for record in records:
        calibration.observe([record])
    # Tens of microseconds when measured alone; the bound leaves room for a busy machine.
    assert (time.process_time() - start_s) / len(records) < 300e-6


@pytest.mark.parametrize("rate_per_s", [0.5, 1.5, 3.0])
def test_rare_prompts_are_learned_among_many_decodes(rate_per_s: float) -> None:
    """A GPU's base, and an engine whose decodes are faster and whose prompts are four times slower."""
    truth = KernelLatency((1.0, 16.0, 256.0), (0.0115, 0.016, 0.15), 1e-6, 1e-8, 1e-4)
    base = CalibratedLatency("gpu", KernelLatency((1.0, 64.0, 256.0), (0.0195, 0.0225, 0.0403)))
    calibration, off = OnlineCalibration(base, "c0ffee", 256), []
    traffic = Traffic(1, rate_per_s, prompt_tokens=60, output_tokens=130, chunk=256, noise=0.05)
    for record in traffic.records(truth.seconds, 240, start_s=0.0):
        if record.shape.prefill_tokens > 100 and record.submit_s > 120:
            off.append(abs(calibration.current().seconds(record.shape) / truth.seconds(record.shape) - 1))
        calibration.observe([record])
    assert len(off) > 5
    assert np.median(off) < 0.08  # with noise of 0.05


def test_one_rare_kind_of_step_is_worth_a_new_model() -> None:
    """Decodes as the base says, to the last digit; of every hundred steps one is a prompt, thrice as slow."""
    calibration = OnlineCalibration(_base(), "c0ffee")
    prompt, decode = BatchShape(256, 0, 256, 32_768, 1), BatchShape(0, 8, 3000, 0, 8)
    now_s = 0.0
    for step in range(3200):
        shape = prompt if step % 100 == 99 else decode
        seconds = TRUTH.seconds(shape) * (3 if shape is prompt else 1)
        calibration.observe([StepRecord(step + 1, now_s, now_s + seconds, seconds, shape)])
        now_s += seconds
    assert calibration.current().seconds(prompt) == pytest.approx(3 * TRUTH.seconds(prompt), rel=0.05)
    assert calibration.current().seconds(decode) == pytest.approx(TRUTH.seconds(decode), rel=0.01)


KINDS = {**TRAFFIC, "light": lambda seed: Traffic(seed, rate_per_s=0.5)}


@pytest.mark.parametrize(
    ("before", "after", "times", "within_s"),
    [
        ("steady", "steady", 2.0, 60),
        ("steady", "steady", 0.5, 60),
        ("light", "saturated", 2.0, 60),
        ("light", "saturated", 4.0, 60),
        ("saturated", "light", 2.0, 60),
        # Whether new kinds are dearer than expected or the engine slower, only time can tell.
        ("long prompts", "steady", 2.0, 180),
        ("steady", "long prompts", 0.5, 60),
    ],
)
def test_another_speed_is_followed(before: str, after: str, times: float, within_s: float) -> None:
    """A clock that is lowered, a neighbour on the GPU: steps take so many times as long."""
    calibration = _taught(_base(), KINDS[before](seed=1), 600)

    def seconds(shape: BatchShape) -> float:
        return times * TRUTH.seconds(shape)

    for record in KINDS[after](seed=3).records(seconds, within_s, start_s=9000.0):
        calibration.observe([replace(record, step=record.step + 10**6)])
    shapes = shape_array(record.shape for record in KINDS[after](seed=4).records(seconds, 60))
    kernel = calibration.current().kernel
    off = np.abs(kernel_seconds(kernel, shapes) / (times * kernel_seconds(TRUTH, shapes)) - 1)
    assert np.median(off) < 0.03


@pytest.mark.parametrize("times", [1.6, 0.6])
def test_the_speed_of_a_moment_is_not_taken_for_the_engines_own(times: float) -> None:
    calibration, now, during = OnlineCalibration(_base(), "c0ffee"), [0.0], []

    def seconds(shape: BatchShape) -> float:
        return TRUTH.seconds(shape) * (times if 600 < now[0] < 608 else 1.0)

    for record in Traffic(1).records(seconds, 620, start_s=0.0):
        calibration.observe([record])
        now[0] = record.end_s
        if 600 < now[0] < 608:
            during.append(float(np.median(_off(calibration.current().kernel, Traffic(2)))))
    assert max(during) < 0.05
    assert np.median(_off(calibration.current().kernel, Traffic(2))) < 0.03


PROMPTS, DECODES = BatchShape(512, 8, 4000, 512 * 400, 9), BatchShape(0, 8, 3000, 0, 8)


def _steady(
    calibration: OnlineCalibration, shape: BatchShape, times: float, seconds: float, since: tuple[int, float]
) -> tuple[int, float]:
    """Steps of one shape for so long, back to back; the last one's number and end."""
    step, now_s = since
    until_s = now_s + seconds
    while now_s < until_s:
        step, duration_s = step + 1, times * TRUTH.seconds(shape)
        calibration.observe(
            [StepRecord(step, now_s, now_s + duration_s, duration_s, shape)], now_s + duration_s
        )
        now_s += duration_s
    return step, now_s


def _misses(calibration: OnlineCalibration, shape: BatchShape, times: float = 1.0) -> float:
    return abs(calibration.current().seconds(shape) / (times * TRUTH.seconds(shape)) - 1)


def test_an_unknown_kind_that_is_dearer_than_expected_is_no_other_speed() -> None:
    """Phases of decodes and of prompts, which the base takes for 2.3 times cheaper than they are."""
    calibration, since = OnlineCalibration(_base(), "c0ffee", 512), (0, 1.0)
    for _ in range(3):
        since = _steady(calibration, DECODES, 1.0, 20, since)
        since = _steady(calibration, PROMPTS, 2.3, 20, since)
        assert _misses(calibration, DECODES) < 0.02
        assert _misses(calibration, PROMPTS, 2.3) < 0.02


def test_slow_first_seconds_are_soon_forgotten() -> None:
    calibration = OnlineCalibration(_base(), "c0ffee", 512)
    since = _steady(calibration, DECODES, 8.0, 3, (0, 1.0))
    _steady(calibration, DECODES, 1.0, 4, since)
    assert _misses(calibration, DECODES) < 0.02


def test_a_speed_with_short_interruptions_is_followed() -> None:
    calibration = OnlineCalibration(_base(), "c0ffee", 512)
    since = _steady(calibration, DECODES, 1.0, 60, (0, 1.0))
    for _ in range(3):
        since = _steady(calibration, DECODES, 2.0, 14.5, since)
        since = _steady(calibration, DECODES, 1.0, 0.6, since)
    _steady(calibration, DECODES, 2.0, 5, since)
    assert _misses(calibration, DECODES, 2.0) < 0.02


def test_a_clock_set_back_does_not_keep_it_from_following_a_speed() -> None:
    calibration = OnlineCalibration(_base(), "c0ffee", 512)
    since = _steady(calibration, DECODES, 1.0, 60, (0, 10_000.0))
    step, now_s = _steady(calibration, DECODES, 2.0, 8, since)
    _steady(calibration, DECODES, 2.0, 20, (step, now_s - 3600))
    assert _misses(calibration, DECODES, 2.0) < 0.02


def test_a_pace_is_not_kept_over_a_pause() -> None:
    calibration = OnlineCalibration(_base(), "c0ffee", 512)
    since, random = (0, 1.0), np.random.default_rng(1)
    for _ in range(60):
        since = _steady(calibration, DECODES, float(random.choice([0.9, 1.1])), 2, since)
    _, now_s = _steady(calibration, DECODES, 1.1, 2, since)
    assert calibration.status.pace > 1.02
    assert calibration.observe([], now_s + 10.0)
    assert calibration.status.pace == 1.0


def test_a_step_of_no_length_teaches_nothing() -> None:
    """As an engine's clock that is set back makes them."""
    calibration = OnlineCalibration(_base(2.0), "c0ffee")
    for count, record in enumerate(Traffic(1, rate_per_s=3).records(TRUTH.seconds, 60)):
        none = record.end_s - record.duration_s if count % 50 == 20 else record.end_s
        duration_s = 0.0 if count % 50 == 20 else record.duration_s
        calibration.observe([replace(record, end_s=none, duration_s=duration_s)])
    off = _off(calibration.current().kernel, Traffic(2, rate_per_s=3))
    assert np.median(off) < 0.02


@pytest.mark.parametrize(("paused", "unpaused"), [(1, 2), (2, 1), (2, 2), (2, 4)])
def test_a_kind_of_step_that_begins_with_pauses(paused: int, unpaused: int) -> None:
    calibration = OnlineCalibration(_base(), "c0ffee", 512)
    prompt, decode = BatchShape(256, 0, 256, 65_536, 1), BatchShape(0, 8, 3000, 0, 8)
    now_s, met = 1.0, 0
    for step in range(1500):
        shape = prompt if step % 200 == 100 and met < paused + unpaused else decode
        met += shape is prompt
        duration_s = TRUTH.seconds(shape) + (2.0 if shape is prompt and met <= paused else 0.0)
        calibration.observe([StepRecord(step + 1, now_s, now_s + duration_s, duration_s, shape)])
        now_s += duration_s
    assert calibration.current().seconds(prompt) == pytest.approx(TRUTH.seconds(prompt), rel=0.05)
    assert calibration.current().seconds(decode) == pytest.approx(TRUTH.seconds(decode), rel=0.02)
