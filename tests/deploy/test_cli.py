"""The command line in processes of its own, on clusters whose vLLM servers are stand-ins."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from deploy.cli import app
from deploy.launch import launch_argv

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).parent / "stand_in.py"
SERVERS = ("vllm.entrypoints.openai.api_server", "predictor.cli", "global_scheduler.cli")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cluster_file(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    scheduler_port, engine_port, predictor_port = free_ports(3)
    config = {
        "name": "fleet",
        "instances": 1,
        "scheduler_port": scheduler_port,
        "engine_port": engine_port,
        "predictor_port": predictor_port,
        "ready_timeout_s": 30,
        "engine": {"model": "model", "served_model_name": "m", "latency": "latency.yaml"},
    }
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs ``block-deploy`` in ``tmp_path``; vLLM and our services are stand-ins found first."""
    for module in SERVERS:
        write_stand_in(tmp_path / "modules", module)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{ROOT}")

    def run(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "deploy.cli", *arguments]
        return subprocess.run(
            argv, cwd=tmp_path, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    yield run
    run("down", "fleet")


def write_stand_in(folder: Path, module: str) -> None:
    *packages, name = module.split(".")
    for package in packages:
        folder /= package
        folder.mkdir(parents=True, exist_ok=True)
        # The rest of the package is the real one, which the launcher itself uses.
        code = "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
        (folder / "__init__.py").write_text(code)
    code = f"import runpy\nrunpy.run_path({str(STAND_IN)!r}, run_name='__main__')\n"
    (folder / f"{name}.py").write_text(code)


def test_up_status_logs_down(deploy: Run, cluster_file: Path) -> None:
    up = deploy("up", str(cluster_file), "--detach")
    assert (up.returncode, up.stderr) == (0, "")
    assert "OPENAI_BASE_URL=http://127.0.0.1:" in up.stdout

    again = deploy("up", str(cluster_file), "--detach")
    assert again.returncode == 1
    assert again.stderr.strip() == (
        "block-deploy: cluster fleet is already up; `block-deploy down fleet` ends it"
    )

    status = deploy("status", "fleet", "--json")
    [state] = json.loads(status.stdout)
    assert status.returncode == 0
    assert state["ready"] is True
    assert [(p["name"], p["phase"]) for p in state["processes"]] == [
        ("instance-0", "ready"),
        ("predictor-0", "ready"),
        ("scheduler", "ready"),
    ]
    assert "instance-0" in deploy("status").stdout

    assert "listening on" in deploy("logs", "fleet", "scheduler").stdout
    assert (
        deploy("logs", "fleet", "nobody").stderr.strip().endswith("there: instance-0, predictor-0, scheduler")
    )

    launcher = psutil.Process(state["launcher_pid"])
    family = [launcher, *launcher.children(recursive=True)]
    down = deploy("down")
    assert (down.returncode, down.stdout) == (0, "cluster fleet is down\n")
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert deploy("status", "fleet").returncode == 1
    assert deploy("down", "fleet").stdout == "cluster fleet is not up\n"


def test_status_reports_a_server_that_died(deploy: Run, cluster_file: Path) -> None:
    assert deploy("up", str(cluster_file), "--detach").returncode == 0
    [state] = json.loads(deploy("status", "--json").stdout)
    engine = psutil.Process(state["processes"][0]["pid"])
    guard = engine.parent()
    assert guard is not None
    engine.kill()
    psutil.wait_procs([guard], timeout=10)
    status = wait_for_status(deploy, "ended")
    assert status["processes"][0]["exit_code"] == -signal.SIGKILL
    assert [p["phase"] for p in status["processes"]] == ["ended", "ready", "ready"]


def wait_for_status(deploy: Run, phase: str) -> dict[str, list[dict[str, object]]]:
    for _ in range(20):
        [state] = json.loads(deploy("status", "--json").stdout)
        if any(process["phase"] == phase for process in state["processes"]):
            return dict(state)
    raise AssertionError(f"no process came to be {phase}")


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_taken_port_is_one_line_and_exit_status_1(
    deploy: Run, cluster_file: Path, detach: list[str]
) -> None:
    port = yaml.safe_load(cluster_file.read_text())["engine_port"]
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        done = deploy("up", str(cluster_file), *detach)
    assert done.returncode == 1
    assert done.stderr.startswith(f"block-deploy: port {port} for instance-0 cannot be used")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_server_that_dies_at_start_is_one_line_and_exit_status_1(
    deploy: Run, cluster_file: Path, detach: list[str], tmp_path: Path
) -> None:
    done = deploy("up", str(cluster_file), "--set", "engine.extra_flags=[--fail, out of blocks]", *detach)
    assert done.returncode == 1
    assert done.stderr == (
        "block-deploy: instance-0 ended at start with exit code 1; it said: ValueError: out of blocks "
        f"(log: {tmp_path}/run/fleet/logs/instance-0.log)\n"
    )
    assert deploy("status", "--json").stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file or directory); check the path"),
        (
            ["up", "fleet.yaml", "--set", "engine.max_num_seq=9"],
            "engine.max_num_seq: unknown setting; known here:",
        ),
        (
            ["up", "fleet.yaml", "--set", "instances=0"],
            "instances = 0: Input should be greater than or equal to 1",
        ),
        (
            ["up", "fleet.yaml", "--set", "scheduler.policy=nope"],
            "--set: scheduler.policy = 'nope': unknown;",
        ),
        (["up", "fleet.yaml", "--set", "scheduler={estimator: x}"], "--set: scheduler.estimator = 'x': unk"),
        (["up", "fleet.yaml", "--set", "instances"], "--set instances: must be FIELD=VALUE"),
        (["up", "fleet.yaml", "--set", "engine.model=llama"], "python -m exp.local_model llama --out"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(
    deploy: Run, cluster_file: Path, arguments: list[str], message: str
) -> None:
    done = deploy(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["up", "status", "logs", "down"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: block-deploy {command}" in result.output


def test_a_launcher_in_the_background_gets_the_same_settings() -> None:
    argv = launch_argv(Path("f.yaml"), ["a=1", "b=2"], 3)
    assert argv[1:] == [
        *("-m", "deploy.cli", "up", "f.yaml", "--set", "a=1", "--set", "b=2", "--instances", "3")
    ]
