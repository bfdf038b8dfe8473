"""Constants fitted to recorded steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from operator_profiles import layer_profile

from block.errors import PackError
from vidur_adapter.batch import StepBatch
from vidur_adapter.constants import fitted_constants
from vidur_adapter.llmservingsim import LayerProfile
from vidur_adapter.model import Constants
from vidur_adapter.tabulated import EngineRange, drawn_batches

BATCHES = [StepBatch.of_shape(batch.shape) for batch in drawn_batches(EngineRange(64, 512), count=300)]
SHAPES = [batch.shape for batch in BATCHES]


def test_constants_are_found_again_under_noise_and_pauses(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path, skew=False), 2, 64).model()
    truth = Constants(step_s=0.0008, request_s=4e-6, factor=1.2)
    noise = np.random.default_rng(1).normal(1, 0.01, len(SHAPES))
    seconds = replace(model, constants=truth).time(BATCHES).seconds * noise
    seconds[::50] += 2.0
    found = fitted_constants(model, SHAPES, seconds)
    predicted = replace(model, constants=found).time(BATCHES).seconds
    wanted = replace(model, constants=truth).time(BATCHES).seconds
    assert np.median(np.abs(predicted / wanted - 1)) < 0.01
    assert found.step_s == pytest.approx(truth.step_s, rel=0.15)
    assert found.origin == "fitted"


def test_a_handful_of_steps_is_not_enough(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path), 2, 64).model()
    with pytest.raises(PackError, match="at least 50"):
        fitted_constants(model, SHAPES[:10], np.ones(10))
