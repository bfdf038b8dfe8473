"""The verbs in processes of their own, on a fleet on this machine whose servers are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from port_row import ports_in_a_row

from deploy.fleet.group_folder import MARK

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = ROOT / "tests" / "deploy" / "stand_in.py"
Deploy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    """Two instances; the environment is this one, with stand-ins for what it would serve with."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "latency.yaml").touch()
    _write_environment(tmp_path / "environment")
    first = ports_in_a_row(9)
    config = {
        "name": "lab",
        "instances": 2,
        "scheduler_port": first,
        "engine_port": first + 1,
        "predictor_port": first + 5,
        "ready_timeout_s": 20.0,
        "drain_timeout_s": 5.0,
        "backend": {"kind": "local", "folder": str(tmp_path / "folder")},
        "setup": {"environment": str(tmp_path / "environment"), "python": sys.executable},
        "secrets": {"WORD": {"env": "WORD"}},
        "engine": {"model": "model", "served_model_name": "m", "latency": "latency.yaml"},
    }
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _write_environment(folder: Path) -> None:
    for module in ("vllm.entrypoints.openai.api_server", "predictor.cli", "global_scheduler.cli"):
        *packages, name = module.split(".")
        home = folder / "modules"
        for package in packages:
            home /= package
            home.mkdir(parents=True, exist_ok=True)
            code = "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
            (home / "__init__.py").write_text(code)
        (home / f"{name}.py").write_text(
            f"import runpy\nrunpy.run_path({str(STAND_IN)!r}, run_name='__main__')\n"
        )
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(
        "#!/bin/sh\nexport PYTHONSAFEPATH=1\n"
        f'PYTHONPATH={folder}/modules:$PYTHONPATH exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)


@pytest.fixture
def deploy(tmp_path: Path, fleet_file: Path) -> Iterator[Deploy]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORD": "open-sesame"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "deploy.cli", *arguments]
        return subprocess.run(
            argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    yield run
    run("down", "lab")


def _groups(deploy: Deploy) -> dict[str, dict[str, Any]]:
    [report] = json.loads(deploy("status", "--json").stdout)
    return {group["name"]: group for group in report["groups"]}


def _processes(folder: Path) -> dict[int, str]:
    """Process id -> group, of everything that runs of the fleet."""
    found = {}
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
        except psutil.Error:
            continue
        if mark.startswith(str(folder)):
            found[process.pid] = Path(mark).name
    return found


@pytest.mark.slow
def test_a_fleet_converges_scales_restarts_and_leaves_nothing(
    deploy: Deploy, fleet_file: Path, tmp_path: Path
) -> None:
    up = deploy("up", str(fleet_file))
    assert up.returncode == 0, up.stdout + up.stderr
    assert "OPENAI_BASE_URL=http://127.0.0.1:" in up.stdout
    first = _processes(tmp_path / "folder")
    assert set(first.values()) == {"predictors-0", "instance-0", "instance-1", "scheduler-0"}

    # A process that died is found, and a second `up` renews its group and no other.
    engine = next(pid for pid, group in first.items() if group == "instance-1" and _is_engine(pid))
    psutil.Process(engine).kill()
    psutil.wait_procs([psutil.Process(engine)] if psutil.pid_exists(engine) else [], timeout=10)
    assert deploy("status", "lab").returncode == 1
    assert deploy("up", str(fleet_file)).returncode == 0
    second = _processes(tmp_path / "folder")
    unchanged = {pid for pid, group in first.items() if group != "instance-1"}
    assert unchanged <= second.keys()

    # The list that schedulers follow is what serves.
    [listed] = (tmp_path / "folder").glob("fleets/lab/*/instances.json")
    assert deploy("drain", "instance-0").returncode == 0
    assert [one.get("draining", False) for one in json.loads(listed.read_text())] == [True, False]
    assert deploy("scale", "1").returncode == 0
    assert [one["name"] for one in json.loads(listed.read_text())] == ["instance-0"]
    assert _groups(deploy)["instance-0"]["drained"] is True
    assert deploy("restart", "instance-0").returncode == 0
    assert "draining" not in json.loads(listed.read_text())[0]
    assert not {pid for pid, group in second.items() if group == "instance-0"} & _processes(tmp_path).keys()

    # Secrets are in the servers' environment and in no file.
    assert psutil.Process(next(iter(_processes(tmp_path)))).environ()["WORD"] == "open-sesame"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"open-sesame" in path.read_bytes()]

    assert "listening on" in deploy("logs", "lab", "instance-0").stdout
    assert "listening on" in _followed(tmp_path)
    down = deploy("down", "lab")
    assert down.returncode == 0, down.stdout + down.stderr
    assert _processes(tmp_path) == {}
    assert list((tmp_path / "folder" / "fleets" / "lab").iterdir()) == []
    assert (tmp_path / "run" / "lab" / "logs" / "instance-0.log").exists()
    assert deploy("status", "lab").returncode == 1


def _followed(folder: Path) -> str:
    """The first line of logs that are followed, and an orderly end by Ctrl-C."""
    argv = [sys.executable, "-m", "deploy.cli", "logs", "lab", "instance-0", "-f"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        line = following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130
    return line


def _is_engine(pid: int) -> bool:
    return "vllm.entrypoints.openai.api_server" in psutil.Process(pid).cmdline()


def test_a_group_that_fails_is_named_with_the_last_thing_it_said(
    deploy: Deploy, fleet_file: Path, tmp_path: Path
) -> None:
    fails = ("--set", "engine.extra_flags=[--fail, out of blocks]", "--set", "instances=1")
    up = deploy("up", str(fleet_file), *fails)
    assert up.returncode == 1
    assert "instance-0 ended at start with exit code 1; it said: ValueError: out of blocks" in up.stderr
    assert set(_processes(tmp_path).values()) == {"predictors-0", "scheduler-0"}
    assert deploy("down", "lab").returncode == 0
    assert _processes(tmp_path) == {}
