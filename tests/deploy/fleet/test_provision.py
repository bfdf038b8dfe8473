"""The verb ``provision``: what it refuses, and within which bounds it begins."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from memory_hosts import record
from rich.console import Console
from typer.testing import CliRunner

from block.errors import BlockError, ConfigError, DeployError
from deploy.cli import app
from deploy.fleet.provision import DecisionLog, _bounded, provision_fleet
from deploy.fleet.record import FleetFolder
from global_scheduler.provisioning import Decision

ROOT = Path(__file__).resolve().parents[3]


def _decision(**changed: Any) -> Decision:
    fields: dict[str, Any] = {"at_s": 1.0, "strategy": "slo", "instances": 2, "starting": 0}
    return Decision(**(fields | {"rate_per_s": 1.0, "wished": 1, "reason": "because"} | changed))


def test_no_more_than_fit_on_the_hosts_and_no_fewer_than_the_fewest() -> None:
    assert _bounded(record(provisioning={"max_instances": 9}).settings).max_instances == 2
    assert _bounded(record(provisioning={"max_instances": 1}).settings).max_instances == 1
    slurm = record(provisioning={"max_instances": 9}, backend={"kind": "slurm"}).settings
    assert _bounded(slurm).max_instances == 9
    with pytest.raises(
        ConfigError, match="min_instances = 3: the hosts have room for 2; lower it, add hosts"
    ):
        _bounded(record(provisioning={"min_instances": 3}).settings)


async def test_only_one_controller_changes_a_fleet(tmp_path: Path) -> None:
    folder, wanted = FleetFolder(tmp_path / "lab"), record()
    folder.write(wanted)
    with folder.provisioning(), pytest.raises(DeployError, match="provisioned by another"):
        await provision_fleet(wanted.settings, tmp_path, folder, Console(file=io.StringIO()), 1)


async def test_a_fleet_that_is_not_up_is_said_to_be(tmp_path: Path) -> None:
    folder = FleetFolder(tmp_path / "lab")
    with pytest.raises(DeployError, match="is not up; `block-deploy up FILE` starts it"):
        await provision_fleet(record().settings, tmp_path, folder, Console(file=io.StringIO()), 1)


async def test_a_secret_that_instances_will_need_is_missed_at_once(tmp_path: Path) -> None:
    folder, wanted = FleetFolder(tmp_path / "lab"), record(secrets={"WORD": {"env": "NOT_SET_ANYWHERE"}})
    folder.write(wanted)
    with pytest.raises(ConfigError, match=r"secrets\.WORD: the variable NOT_SET_ANYWHERE is not set"):
        await provision_fleet(wanted.settings, tmp_path, folder, Console(file=io.StringIO()), 1)


def test_a_cluster_without_a_backend_is_no_fleet() -> None:
    done = CliRunner().invoke(app, ["provision", str(ROOT / "config/cluster/local.yaml")])
    assert isinstance(done.exception, BlockError)
    assert "names no backend" in str(done.exception)


def test_every_decision_is_a_line_and_those_like_the_last_are_shown_once(tmp_path: Path) -> None:
    shown = io.StringIO()
    log = DecisionLog(tmp_path / "decisions.jsonl", Console(file=shown))
    for decision in (_decision(), _decision(at_s=2.0), _decision(add=1), _decision(drain=("instance-1",))):
        log.note(decision)
    assert len((tmp_path / "decisions.jsonl").read_text().splitlines()) == 4
    assert shown.getvalue().splitlines() == [
        "2 + 0 instances: nothing; because",
        "2 + 0 instances: add 1; because",
        "2 + 0 instances: drain instance-1; because",
    ]


def test_a_log_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "nowhere" / "decisions.jsonl", Console(file=io.StringIO()))
    with pytest.raises(
        DeployError, match=r"No such file or directory; name another file \(--set provisioning"
    ):
        log.note(_decision())
