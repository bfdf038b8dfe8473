"""A fleet over real ssh, from nothing to traffic to nothing, through what can happen to it."""

from __future__ import annotations

import json
import signal
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet_user import CLIENT_KEY, MODEL, ROOT, FleetUser, ask, traffic, wait_until
from ssh_hosts import SshWorld, group_processes, ssh_world

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SECRETS = {
    "CLIENT_KEYS": CLIENT_KEY,
    "PREDICTOR_KEY": "the-key-of-the-predictors",
    "VLLM_API_KEY": "the-key-of-the-engines",
}
PROVISIONING = {
    "strategy": "slo",
    "slo_ttft_s": 1.0,
    "slo_share": 0.9,
    "max_instances": 2,
    "interval_s": 2.0,
    "cool_down_s": 5.0,
    "patience_s": 10.0,
    "cold_start_s": 30.0,
    "horizon_s": 90.0,
    "window_s": 20.0,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshWorld]:
    with ssh_world(tmp_path_factory.mktemp("ssh"), 3) as world:
        yield world


@pytest.fixture
def cluster_file(world: SshWorld, tmp_path: Path, llama_model: Path) -> Path:
    hosts = [
        {"name": host.name, "address": host.address, "ssh": f"root@{host.address}", "port": host.port}
        for host in world.hosts.values()
    ]
    config = {
        "name": "lab",
        "instances": 3,
        "schedulers": 2,
        "run_dir": str(tmp_path / "run"),
        "ready_timeout_s": 240.0,
        "drain_timeout_s": 30.0,
        "backend": {
            "kind": "ssh",
            "hosts": hosts,
            "folder": str(world.deploy_folder),
            "identity": str(world.identity),
            "known_hosts": str(world.known_hosts),
        },
        "setup": {"environment": sys.prefix},
        "secrets": {name: {"env": name} for name in SECRETS},
        "engine": {
            "model": ".cache/models/llama-2-7b",
            "served_model_name": MODEL,
            "latency": "config/latency/a30-llama-2-7b.yaml",
            "num_gpu_blocks": 1053,
            "max_num_seqs": 4,
        },
        "predictor": {"access": {"keys": {"env": "PREDICTOR_KEY"}}},
        "scheduler": {
            "policy": "block",
            "estimator": "max_tokens",
            "access": {"keys": {"env": "CLIENT_KEYS"}},
            "upstream": {"predictor_key": {"env": "PREDICTOR_KEY"}, "engine_key": {"env": "VLLM_API_KEY"}},
        },
        "provisioning": PROVISIONING,
    }
    path = ROOT / ".cache" / "test-cluster-ssh.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def user(tmp_path: Path) -> FleetUser:
    return FleetUser(tmp_path, SECRETS)


def test_a_fleet_over_ssh_from_nothing_and_back(world: SshWorld, cluster_file: Path, user: FleetUser) -> None:
    file = str(cluster_file)
    user.deploy("plan", file)
    user.deploy("doctor", file)
    printed = user.deploy("up", file)
    try:
        url = printed.rsplit("OPENAI_BASE_URL=", 1)[1].strip()
        assert set(user.phases().values()) == {"ready"}
        assert set(ask(url, 12).served) <= {"instance-0", "instance-1", "instance-2"}
        _secrets_are_only_in_the_environment(world, user)
        _a_second_up_changes_nothing(user, file)
        _it_scales_under_traffic(user, url)
        _it_drains_and_restarts_under_traffic(user, url)
        _it_survives_the_death_of_a_host(world, user, file, url)
        assert "instance-1: " in user.deploy("logs", "lab")
    finally:
        user.deploy("down", "lab")
    assert group_processes("lab") == []
    assert [path for host in world.hosts for path in world.seen_from_here(host).glob("fleets/lab/*/*")] == []
    assert list((user.folder / "run" / "lab" / "logs").glob("instance-*.log"))


def _secrets_are_only_in_the_environment(world: SshWorld, user: FleetUser) -> None:
    for folder in [*(world.seen_from_here(name) for name in world.hosts), user.folder]:
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_size < 10_000_000:
                content = path.read_bytes()
                assert not [name for name, word in SECRETS.items() if word.encode() in content], path
    report = user.deploy("status", "--json")
    assert not [name for name, word in SECRETS.items() if word in report]
    assert "predicted_e2e_s" in report  # The predictors took their key.


def _a_second_up_changes_nothing(user: FleetUser, file: str) -> None:
    before = _launchers()
    user.deploy("up", file)
    assert _launchers() == before


def _launchers() -> list[str]:
    return sorted(group_processes("lab"))


def _it_scales_under_traffic(user: FleetUser, url: str) -> None:
    with traffic(url) as tally:
        user.deploy("scale", "2")
        assert "instance-2" not in user.phases()
        user.deploy("scale", "3")
    assert tally.failed == []
    assert set(user.phases().values()) == {"ready"}
    print(f"scaled 3 -> 2 -> 3 under {tally.served.total()} requests, none failed")


def _it_drains_and_restarts_under_traffic(user: FleetUser, url: str) -> None:
    with traffic(url) as tally:
        user.deploy("drain", "instance-0")
        served = tally.served["instance-0"]
        wait_until(lambda: tally.served.total() > served + 20, 60)
        assert tally.served["instance-0"] <= served + 1
        user.deploy("restart", "instance-0")
        wait_until(lambda: tally.served["instance-0"] > served + 1, 60)
    assert tally.failed == []
    print(f"drained and restarted under {tally.served.total()} requests, none failed")


def _it_survives_the_death_of_a_host(world: SshWorld, user: FleetUser, file: str, url: str) -> None:
    world.hosts["host2"].kill()
    wait_until(lambda: not ask(url, 3).failed, 30)
    assert set(ask(url, 6).served) <= {"instance-0", "instance-1"}
    report = user.status(code=1)
    assert list(report["unreachable"]) == ["host2"]
    assert "ssh" in user.deploy("up", file, code=1)
    world.hosts["host2"].start()
    user.deploy("up", file)
    assert set(user.phases().values()) == {"ready"}
    wait_until(lambda: "instance-2" in ask(url, 6).served, 30)


def test_a_fleet_over_ssh_follows_its_load(world: SshWorld, cluster_file: Path, user: FleetUser) -> None:
    """On one host, where the predictors of what comes and goes share a process."""
    config = yaml.safe_load(cluster_file.read_text())
    [first, *others] = config["backend"]["hosts"]
    config["backend"]["hosts"] = [first | {"instances": 2}, *(each | {"instances": 0} for each in others)]
    cluster_file.write_text(yaml.safe_dump(config))
    file = str(cluster_file)
    printed = user.deploy("up", file, "--instances", "1")
    try:
        url = printed.rsplit("OPENAI_BASE_URL=", 1)[1].strip()
        _it_grows_although_its_controller_dies(user, file, url)
        _it_shrinks_and_loses_nothing(user, file, url)
    finally:
        user.deploy("down", "lab")
    assert group_processes("lab") == []


def _it_grows_although_its_controller_dies(user: FleetUser, file: str, url: str) -> None:
    with traffic(url, clients=12, tokens=100) as tally:
        with user.running("provision", file) as controller:
            asked_s = wait_until(lambda: any(each["add"] for each in _decisions(user)), 120)
            wait_until(lambda: user.phases().get("instance-1") == "starting", 60)
            controller.kill()
        killed_at = len(_decisions(user))
        with user.running("provision", file):
            grown_s = wait_until(lambda: tally.served["instance-1"] > 3, 240)
            phases = user.phases()
    assert tally.failed == []
    assert set(phases) == {"predictors-0", "instance-0", "instance-1", "scheduler-0", "scheduler-1"}
    assert not any(each["add"] for each in _decisions(user)[killed_at:])
    first = next(each for each in _decisions(user) if each["add"])
    assert first["effect"]["misses_then"] < first["effect"]["misses"]
    print(
        f"asked for one more after {asked_s:.1f} s ({first['reason']}), which served {grown_s:.1f} s later, "
        f"its controller killed meanwhile; {tally.served.total()} requests, none failed"
    )


def _it_shrinks_and_loses_nothing(user: FleetUser, file: str, url: str) -> None:
    with traffic(url, clients=2, tokens=30) as tally, user.running("provision", file) as controller:
        drained_s = wait_until(lambda: any(each["drain"] for each in _decisions(user)), 120)
        ended_s = wait_until(lambda: len(user.phases()) == 4, 60)
        controller.send_signal(signal.SIGINT)
        assert controller.wait(30) == 130
    assert tally.failed == []
    assert set(user.phases().values()) == {"ready"}
    print(
        f"drained one after {drained_s:.1f} s, ended {ended_s:.1f} s later; {tally.served.total()} requests, "
        "none failed"
    )


def _decisions(user: FleetUser) -> list[dict[str, Any]]:
    log = user.folder / "run" / "lab" / "provisioning.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_host_that_fails_is_named_and_what_was_begun_is_ended_again(
    world: SshWorld, cluster_file: Path, user: FleetUser
) -> None:
    hosts = yaml.safe_load(cluster_file.read_text())["backend"]["hosts"]
    hosts[1]["port"] = 9
    changed = f"backend.hosts={yaml.safe_dump(hosts, default_flow_style=True, width=10_000)}"
    said = user.deploy(
        "up", str(cluster_file), "--set", changed, "--set", "instances=2", "--on-failure", "rollback", code=1
    )
    assert "host1: ssh" in said
    assert "is its sshd running" in said
    assert group_processes("lab") == []


def test_a_host_with_another_key_than_the_known_one_is_not_trusted(
    world: SshWorld, cluster_file: Path, user: FleetUser, tmp_path: Path
) -> None:
    unknown = tmp_path / "known_hosts"
    unknown.touch()
    said = user.deploy("install", str(cluster_file), "--set", f"backend.known_hosts={unknown}", code=1)
    assert said.count("Host key verification failed; log in once by hand") == 3


def make_wheel(path: Path) -> None:
    """A package of one module."""
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_an_environment_is_installed_once_and_an_interrupted_one_is_finished(
    world: SshWorld, cluster_file: Path, user: FleetUser, tmp_path: Path
) -> None:
    requirements = ROOT / ".cache" / "test-cluster-requirements.txt"
    requirements.write_text("tiny==1.0\n")
    make_wheel(tmp_path / "tiny-1.0-py3-none-any.whl")
    setup = {
        "requirements": str(requirements.relative_to(ROOT)),
        "python": sys.executable,
        "pip_arguments": ["--no-index", f"--find-links={tmp_path}"],  # hosts of a test reach no registry
    }
    settings = ("--set", f"setup={json.dumps(setup)}")
    first = user.deploy("install", str(cluster_file), *settings)
    assert first.count("installing packages") == 3
    assert user.deploy("install", str(cluster_file), *settings).count("up to date") == 3
    [whole] = world.seen_from_here("host1").glob("environment-*/.complete")
    whole.unlink()
    third = user.deploy("install", str(cluster_file), *settings)
    again = 1 if world.isolated else 3
    assert (third.count("installing packages"), third.count("up to date")) == (again, 3 - again)
