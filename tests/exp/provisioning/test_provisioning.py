"""Strategies of provisioning by a spec: loads along a curve, runs that are the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from block.config import load_config
from block.errors import ConfigError
from exp.provisioning.command import _kept
from exp.provisioning.load import arrivals
from exp.provisioning.run import Run, run_strategy
from exp.provisioning.spec import ProvisionSpec, QuickSettings

ROOT = Path(__file__).parents[3]
SPEC = ROOT / "config/provisioning/auto_provision.yaml"


def _spec() -> ProvisionSpec:
    spec = load_config(SPEC, ProvisionSpec).quickened()
    loads = {name: load.model_copy(update={"duration_s": 40.0}) for name, load in spec.loads.items()}
    return spec.model_copy(update={"loads": loads})


def test_arrivals_follow_the_curve() -> None:
    times_s = arrivals(np.array([5.0, 20.0]), 400.0, seed=1)
    first = int((times_s < 200.0).sum())
    assert 850 < first < 1150
    assert 3700 < len(times_s) - first < 4300
    assert (np.diff(times_s) >= 0).all()


@pytest.mark.parametrize("strategy", ["static 10", "slo"])
def test_a_run_is_the_same_again(strategy: str, tmp_path: Path) -> None:
    first, again = (run_strategy(_spec(), "paper", strategy, 0, tmp_path) for _ in range(2))
    assert first == again
    assert first.failed == 0
    assert first.requests > 500
    assert max(first.instances) == (10 if strategy == "static 10" else max(first.instances))
    assert max(first.instances) <= 12


def test_options_of_the_policy_count(tmp_path: Path) -> None:
    """The shipped spec has the paper's objective, whose choices are not the default's."""
    alone = _spec()
    assert alone.policy_options == {"ttft_weight": 0.0}
    weighed = alone.model_copy(update={"policy_options": {}})
    first, second = (run_strategy(spec, "paper", "static 10", 0, tmp_path) for spec in (alone, weighed))
    assert first.requests == second.requests
    assert first.p99_e2e_s != second.p99_e2e_s


def test_more_instances_at_first_than_there_could_be_are_refused() -> None:
    spec = _spec().model_copy(update={"most_instances": 4})
    with pytest.raises(ConfigError, match="start = 6 is above most_instances = 4"):
        spec.start("paper", "slo")


def test_the_shipped_spec_is_right_in_all_its_runs() -> None:
    load_config(SPEC, ProvisionSpec).check()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"policy_options": {"weight": 1.0}}, "policy_options.block.weight = 1.0: unknown option"),
        ({"set": {"cool_down": 9.0}}, "load paper, strategy static 10: cool_down: "),
        ({"most_instances": 11}, "max_instances = 12 is above most_instances = 11"),
        ({"quick": QuickSettings(loads=("night",))}, "there is no load 'night'; known are paper, day"),
    ],
)
def test_what_would_be_wrong_with_the_last_run_is_said_before_the_first(
    wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(SPEC, ProvisionSpec).model_copy(update=wrong).check()
    assert said in str(error.value)


def test_a_line_that_an_interruption_cut_off_is_dropped_and_a_damaged_file_named(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    assert _kept(file) == []
    run = Run("paper", "slo", 0, "made up", 1, 0, 0.5, 0.0, 0.1, 1.0, 0, 0, (0.0,), (6,), (), ())
    line = msgspec.json.encode(run) + b"\n"
    file.write_bytes(line + line[:40])
    assert _kept(file) == [run]
    assert file.read_bytes() == line
    file.write_bytes(b"{}\n")
    with pytest.raises(ConfigError, match=r"runs\.jsonl: damaged .*; remove it, or name another folder"):
        _kept(file)
