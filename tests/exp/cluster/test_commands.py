"""The commands around the cluster simulation: a table for people, JSON for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from block.errors import ConfigError, StateError
from block.latency.load import load_latency
from block.types import EngineLimits
from exp.cluster.capacity import Objective, at_rate, capacity_per_s
from exp.cluster.command import app
from exp.cluster.load import known_load
from exp.cluster.simulation import simulate_cluster
from exp.cluster.spec import ClusterSpec, SimulatedInstance
from exp.cluster.studies import STUDIES, Finding, Study, StudyScale, Variant, run_study
from exp.cluster.study_command import table
from exp.cluster.study_log import StudyLog
from exp.workload import WorkloadSpec, generated

A30 = Path(__file__).parents[3] / "config/latency/a30-llama-2-7b.yaml"
SPEC = ClusterSpec((SimulatedInstance(EngineLimits(16, 1052, 24, 512, 4096), load_latency(A30)),) * 2)


def _run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["--workload", "generated", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_cluster_from_flags(tmp_path: Path) -> None:
    out = tmp_path / "requests.parquet"
    flags = ["--requests", "40", "--rate", "6", "--lengths", "distribution", "--scenarios", "2"]
    pools = ["--pool", f"1x{A30}", "--pool", "1xconfig/packs/a100-80-sxm-llama-2-7b.npz"]
    printed = _run(*flags, *pools, "--option", "objective=ttft", "--hindsight", "--out", str(out))
    summary = json.loads(printed.splitlines()[-1])
    assert (summary["policy"], summary["answered"]) == ("block", 40)
    assert summary["p99_ttft_s"] > summary["mean_ttft_s"] > 0
    assert "TTFT" in printed
    assert pyarrow.parquet.read_table(out).num_rows == 40


def test_instances_fail_when_they_are_told_to() -> None:
    flags = ["--requests", "40", "--rate", "8", "--instances", "2", "--policy", "round_robin"]
    told = [json.loads(_run(*flags, *more).splitlines()[-1]) for more in ((), ("--fail", "1@2-4"))]
    assert (told[0]["answered"], told[0]["broken"]) == (40, 0)
    assert told[1]["broken"] > 0
    assert told[1]["answered"] + told[1]["broken"] == 40


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--pool", "a30.yaml"], r"--pool a30.yaml: must be COUNTxFILE"),
        (["--option", "ttft"], r"--option ttft: must be NAME=VALUE"),
        (["--fail", "3"], r"--fail 3: must be INDEX@SECONDS"),
        (["--fail", "12@1"], r"failures: no instance 12; there are 12"),
        (["--policy", "best"], "unknown; known"),
        (["--lengths", "wrong"], "lengths = 'wrong'"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        CliRunner().invoke(
            app, ["--workload", "generated", "--requests", "5", *flags], catch_exceptions=False
        )


def test_capacity_is_where_the_objective_begins_to_be_missed() -> None:
    load = known_load(generated(WorkloadSpec(150, 1.0, Path())).requests)
    objective = Objective(limit_s=0.5)
    capacity = capacity_per_s(SPEC, load, objective, 9.0, precision=0.02)
    assert objective.value_s(simulate_cluster(SPEC, at_rate(load, 0.97 * capacity))) <= 0.5
    assert objective.value_s(simulate_cluster(SPEC, at_rate(load, 1.03 * capacity))) > 0.5
    assert capacity_per_s(SPEC, load, objective, 2.0, precision=0.02) == pytest.approx(capacity, rel=0.03)


def test_a_study_compares_variants_on_the_same_requests() -> None:
    variants = [Variant("one", SPEC), Variant("same", SPEC), Variant("blind", replace(SPEC, policy="random"))]
    study = Study("test", lambda: variants, (5.0,))
    findings = run_study(study, StudyScale(60, 2, Path(), capacity=False))
    assert findings[0].figures == findings[1].figures
    assert findings[1].against(findings[0], "mean E2E at 5/s") == (0.0, 0.0)
    assert findings[2].figures != findings[0].figures
    assert [finding.what_ifs for finding in findings] == [2, 2, 2]
    assert len(table("test", findings).rows) == 3


def test_a_study_goes_on_from_its_log(tmp_path: Path) -> None:
    variants = [Variant("one", SPEC), Variant("blind", replace(SPEC, policy="random"))]
    study, log = Study("test", lambda: variants, (5.0,)), StudyLog(tmp_path / "log", "test", 60)
    scale = StudyScale(60, 1, Path(), capacity=False)
    first = run_study(study, scale, log.add)
    again: list[tuple[str, int]] = []
    both = run_study(
        study, replace(scale, seeds=2), lambda name, seed, _: again.append((name, seed)), log.read()
    )
    assert again == [("one", 1), ("blind", 1)]
    assert both[0].figures["mean E2E at 5/s"][0] == first[0].figures["mean E2E at 5/s"][0]
    # Runs of another size, or without all that is wanted now, are none of this one.
    assert StudyLog(log.path, "test", 61).read() == {}
    other = replace(study, rates_per_s=(6.0,))
    run_study(other, scale, lambda name, seed, _: again.append((name, seed)), log.read())
    assert again[2:] == [("one", 0), ("blind", 0)]
    log.path.write_text("{")
    with pytest.raises(StateError, match="not a line of JSON"):
        log.read()


def test_intervals_are_students() -> None:
    mean, half = Finding("a", 1, {"x": (1.0, 2.0, 3.0)}).interval("x")
    assert mean == 2.0
    assert half == pytest.approx(4.303 * 3**-0.5, rel=1e-3)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_variants_of_a_study_are_named_apart_and_can_run(name: str, text_sets: Path) -> None:
    variants = STUDIES[name].variants()
    assert len({variant.name for variant in variants}) == len(variants)
    for variant in variants:
        load = STUDIES[name].load_of(variant, StudyScale(20, 1, text_sets), seed=0)
        assert simulate_cluster(variant.spec, at_rate(load, 20.0)).summary["answered"] == 20
