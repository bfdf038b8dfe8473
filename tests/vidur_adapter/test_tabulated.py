"""Operators as the simulation's form, and the registry of what there is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from operator_profiles import layer_profile, vidur_profile

from block.errors import ConfigError, PackError
from block.latency.base import KernelLatency
from block.latency.load import load_latency
from block.simulation.engine import EngineSimulation, SimulatedRequest
from block.types import BatchShape, EngineLimits
from exp.latency_report import LatencyReport
from vidur_adapter.batch import StepBatch
from vidur_adapter.llmservingsim import LayerProfile
from vidur_adapter.replay import Replay
from vidur_adapter.sources import Choice, operator_model
from vidur_adapter.tabulated import EngineRange, OperatorLatency, drawn_batches

CONFIG = Path(__file__).parents[2] / "config"
DATA = Path(__file__).parents[3] / "shared" / "data" / "profiles"
LIMITS = EngineLimits(16, 4096, 32, 512, 4096, async_scheduling=True)
ARRIVALS = [SimulatedRequest(f"r{n}", 0.05 * n, 40 + 37 * n % 900, 5 + 53 * n % 200) for n in range(60)]


def choice(
    profiles: Path, gpu: str = "rtx-pro-6000", model: str = "llama-3.1-8b", devices: int = 1
) -> Choice:
    return Choice(gpu, model, profiles, CONFIG, devices)


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    layer_profile(tmp_path / "llmservingsim" / "RTXPRO6000" / "Llama-3.1-8B")
    vidur_profile(tmp_path / "vidur")
    return tmp_path


def test_the_form_is_close_to_the_operators_and_says_how_close(profiles: Path) -> None:
    report = LatencyReport.build(choice(profiles), "", EngineRange(64, 512))
    batches = drawn_batches(EngineRange(64, 512), seed=7, count=200)
    operators = report.model.time(batches).seconds
    off = np.abs(np.array([report.table.seconds(batch.shape) for batch in batches]) / operators - 1)
    assert np.median(off) == pytest.approx(report.table.median_error, abs=0.01)
    assert np.median(off) < 0.03


def test_the_form_lasts_as_a_file_that_predictors_read(profiles: Path, tmp_path: Path) -> None:
    report = LatencyReport.build(choice(profiles), "", EngineRange(64, 512))
    file = tmp_path / "made.yaml"
    file.write_text(report.file())
    shape = BatchShape.of([(1, 500)] * 20 + [(100, 300)])
    assert load_latency(file).seconds(shape) == pytest.approx(report.table.seconds(shape), rel=1e-4)


def test_shapes_beyond_the_measurements_are_not_covered(profiles: Path) -> None:
    table = LatencyReport.build(choice(profiles), "", EngineRange(64, 512)).table
    assert table.covers(BatchShape.of([(1, 500)] * 20))
    assert not table.covers(BatchShape.of([(4096, 4096)]))


def test_the_registry_takes_the_first_source_that_has_the_pair(profiles: Path) -> None:
    assert "Llama-3.1-8B" in operator_model(choice(profiles)).name
    assert operator_model(choice(profiles, "a30", "llama-2-7b")).name.endswith("vidur")
    assert operator_model(choice(profiles, "a30", "llama-2-7b", devices=2)).name.endswith("tp2-vidur")


def test_a_pipeline_adds_its_transfers_where_they_were_measured(profiles: Path) -> None:
    plain = choice(profiles, "a30", "llama-2-7b")
    batch = StepBatch((), (100.0,) * 8)
    seconds = [operator_model(replace(plain, stages=n)).time([batch]).seconds[0] for n in (1, 2, 3)]
    assert seconds[1] - seconds[0] == pytest.approx(seconds[2] - seconds[1])
    assert seconds[1] > seconds[0]
    with pytest.raises(PackError, match="no transfers between stages"):
        operator_model(replace(choice(profiles), stages=2), "llmservingsim")


def test_the_registry_says_what_it_lacks(profiles: Path) -> None:
    with pytest.raises(PackError, match=r"llmservingsim has no GPU a40; .*no profile of llama-2-7b on a40"):
        operator_model(choice(profiles, "a40", "llama-2-7b"))
    with pytest.raises(ConfigError, match="known are llmservingsim, vidur, aiconfigurator"):
        operator_model(choice(profiles), "hearsay")


def test_a_replay_with_the_simulations_own_times_changes_nothing() -> None:
    kernel = KernelLatency((1.0, 512.0), (0.01, 0.05), 1e-7, 1e-9, 1e-6)
    plain = EngineSimulation(LIMITS, kernel, ARRIVALS)
    plain.run()
    assert Replay(EngineSimulation(LIMITS, kernel, ARRIVALS)).run() == plain.outcomes()


def test_a_replay_takes_each_batch_as_long_as_its_operators_say(tmp_path: Path) -> None:
    model = LayerProfile(layer_profile(tmp_path), 2, 64).model()
    replay = Replay(EngineSimulation(LIMITS, KernelLatency((1.0, 2.0), (1.0, 1.0)), ARRIVALS), model)
    outcomes = replay.run()
    assert replay.step_s == pytest.approx(model.time(replay.batches).seconds.tolist())
    table = OperatorLatency.of(model, replay.batches)
    tabulated = EngineSimulation(LIMITS, table.kernel, ARRIVALS)
    tabulated.run()
    ends = [each.finish_s for each in outcomes]
    assert [each.finish_s for each in tabulated.outcomes()] == pytest.approx(ends, rel=0.02)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the data folder ../shared/data")
@pytest.mark.parametrize(
    ("gpu", "model", "devices"),
    [
        ("rtx-pro-6000", "llama-3.1-8b", 1),
        ("a30", "qwen2-7b", 1),
        ("a100-80-sxm", "llama-2-70b", 4),
        ("h200", "qwen3-32b", 2),
        ("l40s", "llama-3.1-8b", 1),
    ],
)
@pytest.mark.parametrize("kind", ["grid", "forest"])
def test_recorded_profiles_are_built_within_a_minute_and_100_mb(
    gpu: str, model: str, devices: int, kind: str
) -> None:
    """In a process that has loaded nothing yet; only the estimator itself may come from a child of it."""
    arguments = (gpu, model, "--tp", str(devices), "--data", str(DATA.parent), "--estimator", kind)
    command = (sys.executable, "-m", "exp.cli", "latency", "show", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["build_s"] < 60
    assert summary["build_mb"] < 100
    assert summary["form_median_error"] < 0.05


def test_a_batch_of_a_shape_has_that_shape() -> None:
    shape = BatchShape.of([(1, 300)] * 10 + [(128, 640)] * 2)
    assert StepBatch.of_shape(shape).shape == shape
