"""A predictor learns its engine's step times from the feed, and starts anew with another engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from feed_messages import LIMITS, snapshot
from step_traffic import Traffic

from block.latency.load import load_latency
from block.messages import FEED_VERSION, Delta
from predictor.calibration import FeedCalibration, engine_config_hash
from predictor.mirror import Mirror

MODEL = load_latency(Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml")


def _run(calibration: FeedCalibration, mirror: Mirror, seq: int, seconds: float = 20) -> int:
    """Feed deltas that report one step each, twice as slow as the model; returns the last seq."""
    clock = mirror.held.clock
    for record in Traffic(seq).records(lambda shape: 2 * MODEL.seconds(shape), seconds):
        seq += 1
        clock = msgspec.structs.replace(clock, step=clock.step + 1, finished_steps=(record,))
        mirror.apply(Delta(FEED_VERSION, seq, mirror.held.engine_id, clock))
        calibration.notice(mirror.held)
    return seq


def _start(calibration: FeedCalibration, mirror: Mirror, **changes) -> None:
    message = msgspec.structs.replace(snapshot([], 100.0), **changes)
    mirror.apply(message)
    calibration.notice(mirror.held)


def test_it_learns_and_resets() -> None:
    calibration, mirror = FeedCalibration(MODEL), Mirror()
    assert calibration.current is MODEL
    assert calibration.status is None
    _start(calibration, mirror)
    assert calibration.current is MODEL
    _run(calibration, mirror, 1)
    status = calibration.status
    assert status.version.startswith("a30-llama-2-7b+c")
    assert status.version.endswith("@" + engine_config_hash("", LIMITS))
    assert 1.7 < status.factor < 2.2
    assert status.recent_error < 0.03 < 0.4 < status.base_error
    calibration.reset()
    assert calibration.current is MODEL
    assert calibration.status.samples == 0


def test_a_restart_keeps_what_was_learned_of_the_same_configuration() -> None:
    calibration, mirror = FeedCalibration(MODEL), Mirror()
    _start(calibration, mirror)
    _run(calibration, mirror, 1)
    learned, samples = calibration.current, calibration.status.samples
    _start(calibration, mirror, engine_id="restarted")
    assert calibration.current is learned
    _run(calibration, mirror, 1, seconds=2)
    assert calibration.status.samples > samples


@pytest.mark.parametrize(
    "change",
    [{"limits": replace(LIMITS, max_num_batched_tokens=2048)}, {"engine_name": "qwen2-7b on A100"}],
    ids=["limits", "model"],
)
def test_another_configuration_starts_anew(change: dict[str, Any]) -> None:
    calibration, mirror = FeedCalibration(MODEL), Mirror()
    _start(calibration, mirror)
    _run(calibration, mirror, 1)
    known = calibration.status.version
    _start(calibration, mirror, engine_id="restarted", **change)
    assert calibration.current is MODEL
    assert calibration.status.samples == 0
    _run(calibration, mirror, 1)
    assert calibration.status.version.rpartition("@")[2] != known.rpartition("@")[2]
