from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from block.config import load_config, parse_config
from block.fleet_config import FleetConfig, SlurmBackend, SshBackend
from deploy.cli import app

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: str, answers: str = "", code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments), input=answers)
    assert done.exit_code == code, done.output + str(done.exception)
    return done.output


def test_flags_make_a_file_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    hosts = ("--host", "me@gpu1.example.org", "--host", "second=you@10.0.0.2")
    run("init", str(path), "--name", "lab", "--backend", "ssh", *hosts, "--gpus", "2", "--model", "/models/m")
    config = load_config(path, FleetConfig)
    assert isinstance(config.backend, SshBackend)
    assert [(host.name, host.ssh, host.address) for host in config.backend.hosts] == [
        ("gpu1.example.org", "me@gpu1.example.org", "gpu1.example.org"),
        ("second", "you@10.0.0.2", "10.0.0.2"),
    ]
    assert (config.instances, config.engine.executor, config.setup.engine) == (4, "real", "vllm==0.32.0")


def test_what_flags_leave_open_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    run("init", str(path), answers="mine\nssh\na b c\n")
    config = load_config(path, FleetConfig)
    assert (config.name, config.instances, config.engine.executor) == ("mine", 3, "emulated")
    run("init", str(tmp_path / "jobs.yaml"), "--backend", "slurm", "--partition", "gpu", answers="jobs\n")
    backend = load_config(tmp_path / "jobs.yaml", FleetConfig).backend
    assert isinstance(backend, SlurmBackend)
    assert backend.partition == "gpu"


def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("mine")
    flags = ("init", str(path), "--name", "lab", "--backend", "local")
    done = CliRunner().invoke(app, list(flags))
    assert "is there already; choose another name or give --force" in str(done.exception)
    assert path.read_text() == "mine"
    run(*flags, "--force")
    assert load_config(path, FleetConfig).name == "lab"


def test_a_manifest_becomes_a_file(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.xml"
    manifest.write_text(
        '<rspec><node client_id="n0"><services><login hostname="n0.example.us"/></services></node></rspec>'
    )
    path = tmp_path / "cloudlab.yaml"
    run("import-cloudlab", str(manifest), "--username", "ann", "--out", str(path))
    backend = load_config(path, FleetConfig).backend
    assert isinstance(backend, SshBackend)
    assert backend.hosts[0].ssh == "ann@n0.example.us"


@pytest.mark.parametrize("name", ["ssh", "slurm"])
def test_plans_are_printed_without_touching_a_host(name: str) -> None:
    printed = run("plan", str(ROOT / f"config/cluster/{name}.yaml"), "--json")
    assert '"name":"scheduler-0"' in printed


def test_what_a_new_file_has_in_comments_is_right(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    run("init", str(path), "--name", "lab", "--backend", "ssh", "--host", "a", "--host", "b")
    plain = [line for line in path.read_text().splitlines() if "allow_anyone: true" not in line]
    text = "\n".join(re.sub(r"^# ((  )*\w+: ?)", r"\1", line) for line in plain)
    config = parse_config(yaml.safe_load(text), FleetConfig, "lab.yaml")
    assert config.provisioning.max_instances == 2
    assert config.scheduler.upstream.predictor_key == config.predictor.access.keys
    assert set(config.secrets) == {"HF_TOKEN", "BLOCK_KEYS", "BLOCK_PREDICTOR_KEY"}
