"""The command line in processes of its own, on clusters whose vLLM servers are stand-ins."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from block.errors import DeployError
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
    (tmp_path / "latency.yaml").touch()
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
        "block-deploy: cluster fleet is already up; "
        f"`block-deploy down fleet --run-dir {cluster_file.parent}/run` ends it"
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
    again = deploy("down", "fleet")
    assert (again.returncode, again.stdout) == (
        0,
        f"cluster fleet is not up in {cluster_file.parent}/run (another folder: --run-dir FOLDER)\n",
    )


@pytest.mark.parametrize("command", ["status", "logs", "down"])
def test_a_cluster_that_never_ran_where_it_is_looked_for_is_an_error(deploy: Run, command: str) -> None:
    done = deploy(command, "fleet", "--run-dir", "elsewhere")
    assert done.returncode == 1
    assert done.stderr.startswith("block-deploy: no cluster fleet has run in /")
    assert done.stderr.endswith("/elsewhere; name its folder with --run-dir FOLDER\n")


@pytest.mark.parametrize("command", ["status", "down"])
def test_looking_for_any_cluster_says_where(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(app, [command, "--run-dir", str(tmp_path / "run")])
    assert done.exit_code == 0
    assert done.stdout == f"no cluster is up in {tmp_path}/run (another folder: --run-dir FOLDER)\n"


def test_of_two_started_at_once_one_comes_up_and_the_other_says_so(
    deploy: Run, cluster_file: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: deploy("up", str(cluster_file), "--detach"), range(2)))
    winner, loser = sorted(done, key=lambda each: each.returncode)
    assert (winner.returncode, loser.returncode) == (0, 1)
    assert loser.stderr.startswith("block-deploy: cluster fleet is already up; ")
    [state] = json.loads(deploy("status", "fleet", "--json").stdout)
    assert f"(launcher pid {state['launcher_pid']})" in winner.stdout
    assert [path.name for path in (tmp_path / "run" / "fleet").glob("launcher*")] == ["launcher.log"]
    assert "OPENAI_BASE_URL=" in (tmp_path / "run" / "fleet" / "launcher.log").read_text()


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
        (
            ["up", "fleet.yaml", "--set", "engine.latency=h100.yaml"],
            "engine.latency = h100.yaml: there is no",
        ),
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


@pytest.mark.parametrize("detach", [[], ["--detach"]])
@pytest.mark.parametrize("run_dir", ["a-file", "/proc/nowhere"])
def test_a_run_folder_that_cannot_be_made_is_one_line(
    deploy: Run, cluster_file: Path, tmp_path: Path, run_dir: str, detach: list[str]
) -> None:
    (tmp_path / "a-file").touch()
    done = deploy("up", str(cluster_file), "--set", f"run_dir={run_dir}", *detach)
    assert done.returncode == 1
    assert done.stderr.startswith(f"block-deploy: {tmp_path / run_dir}")
    assert "--set run_dir=FOLDER" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "status fleet", "down", "down fleet", "logs fleet"])
@pytest.mark.parametrize("run_dir", ["a-file", "unreadable", "n" * 300])
def test_a_run_folder_that_cannot_be_read_is_one_line(tmp_path: Path, run_dir: str, command: str) -> None:
    (tmp_path / "a-file").touch()
    # Where a file should be, a folder, and the reverse: unreadable whatever rights the tests have.
    (tmp_path / "unreadable" / "fleet" / "state.json").mkdir(parents=True)
    (tmp_path / "unreadable" / "fleet" / "lock").touch()
    (tmp_path / "unreadable" / "fleet" / "logs").touch()
    done = CliRunner().invoke(app, [*command.split(), "--run-dir", str(tmp_path / run_dir)])
    assert isinstance(done.exception, DeployError)
    assert str(done.exception).startswith(str(tmp_path / run_dir))
    assert "--run-dir FOLDER" in str(done.exception)
    assert "\n" not in str(done.exception)


def test_an_unreadable_run_folder_is_exit_status_1(deploy: Run, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    done = deploy("status")
    assert done.returncode == 1
    assert done.stderr.startswith("block-deploy: run: Not a directory;")
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
