"""A fleet of real Slurm jobs, through requeue, cancellation, the death of a node, and its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fleet_user import MODEL, ROOT, FleetUser, ask, traffic, wait_until
from slurm_world import SlurmWorld, slurm_world
from ssh_hosts import group_processes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmWorld]:
    with slurm_world(tmp_path_factory.mktemp("slurm"), 3) as world:
        yield world


@pytest.fixture
def cluster_file(tmp_path: Path, llama_model: Path) -> Path:
    config = {
        "name": "jobs",
        "instances": 2,
        "run_dir": str(tmp_path / "run"),
        "ready_timeout_s": 240.0,
        "drain_timeout_s": 30.0,
        "backend": {
            "kind": "slurm",
            "folder": str(tmp_path / "shared"),
            "cpus": 4,
            "drain_s": 20,
            "address": "echo 127.0.0.1",
        },
        "setup": {"environment": sys.prefix},
        "secrets": {"SECRET_WORD": {"env": "SECRET_WORD"}},
        "engine": {
            "model": ".cache/models/llama-2-7b",
            "served_model_name": MODEL,
            "latency": "config/latency/a30-llama-2-7b.yaml",
            "num_gpu_blocks": 1053,
        },
        "predictor": {"access": {"allow_anyone": True}},
        "scheduler": {"policy": "block", "estimator": "max_tokens", "access": {"allow_anyone": True}},
    }
    path = ROOT / ".cache" / "test-cluster-slurm.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_fleet_of_jobs_from_nothing_and_back(slurm: SlurmWorld, cluster_file: Path, tmp_path: Path) -> None:
    user = FleetUser(tmp_path, {**slurm.environment, "SECRET_WORD": "open-sesame"})
    file = str(cluster_file)
    printed = user.deploy("up", file)
    try:
        url = printed.rsplit("OPENAI_BASE_URL=", 1)[1].strip()
        wait_until(lambda: set(ask(url, 6).served) == {"instance-0", "instance-1"}, 60)
        _no_job_shows_a_secret(slurm)
        _a_second_up_changes_nothing(slurm, user, file)
        _it_scales_under_traffic(user, url)
        _it_is_provisioned_under_traffic(user, file, url)
        _a_job_whose_walltime_is_near_drains_and_comes_back(slurm, user, url)
        _a_cancelled_job_is_off_the_list_and_comes_back_with_up(slurm, user, file, url)
        _a_dead_node_is_off_the_list_and_its_job_is_requeued(slurm, user, url)
        assert "instance-0: " in user.deploy("logs", "jobs")
    finally:
        user.deploy("down", "jobs")
    assert slurm.run("squeue", "--noheader") == ""
    assert group_processes("jobs") == []
    assert list((tmp_path / "shared" / "fleets").glob("jobs/*/*")) == []


def _jobs(slurm: SlurmWorld) -> dict[str, tuple[str, str]]:
    """Group -> (number, node)."""
    rows = slurm.run("squeue", "--noheader", "--format=%j %i %N").splitlines()
    return {row.split()[0].rpartition(":")[2]: (row.split()[1], [*row.split(), ""][2]) for row in rows}


def _no_job_shows_a_secret(slurm: SlurmWorld) -> None:
    for number, _ in _jobs(slurm).values():
        assert "open-sesame" not in slurm.run("scontrol", "show", "job", "--details", number)
        assert "open-sesame" not in slurm.run("scontrol", "write", "batch_script", number, "-")
    for path in slurm.folder.rglob("*"):
        if path.is_file():
            assert b"open-sesame" not in path.read_bytes(), path


def _a_second_up_changes_nothing(slurm: SlurmWorld, user: FleetUser, file: str) -> None:
    before = _jobs(slurm)
    user.deploy("up", file)
    assert _jobs(slurm) == before


def _it_scales_under_traffic(user: FleetUser, url: str) -> None:
    with traffic(url) as tally:
        user.deploy("scale", "1")
        assert set(user.phases()) == {"instance-0", "scheduler-0"}
        user.deploy("scale", "2")
    assert tally.failed == []
    print(f"scaled 2 -> 1 -> 2 under {tally.served.total()} requests, none failed")


def _it_is_provisioned_under_traffic(user: FleetUser, file: str, url: str) -> None:
    def provision(looks: str, **settings: object) -> None:
        given = {"strategy": "static", "interval_s": 2.0, "cool_down_s": 0.1, "patience_s": 0.1, **settings}
        flags = [part for name, value in given.items() for part in ("--set", f"provisioning.{name}={value}")]
        user.deploy("provision", file, "--looks", looks, *flags)

    with traffic(url) as tally:
        provision("9", max_instances=1)
        assert [name for name in user.phases() if name.startswith("instance")] in (
            ["instance-0"],
            ["instance-1"],
        )
        provision("1", min_instances=2)
        assert set(user.phases().values()) == {"ready"}
    assert tally.failed == []
    print(f"provisioned 2 -> 1 -> 2 under {tally.served.total()} requests, none failed")


def _a_job_whose_walltime_is_near_drains_and_comes_back(slurm: SlurmWorld, user: FleetUser, url: str) -> None:
    number, _ = _jobs(slurm)["instance-1"]
    with traffic(url) as tally:
        slurm.run("scancel", "--batch", "--signal=USR1", number)
        gone_s = wait_until(lambda: user.phases()["instance-1"] != "ready", 60)
        back_s = wait_until(lambda: "instance-1" in ask(url, 4).served, 180)
    assert tally.failed == []
    assert _jobs(slurm)["instance-1"][0] == number
    print(f"job {number} drained in {gone_s:.1f} s, served again after {back_s:.1f} s more, none failed")


def _a_cancelled_job_is_off_the_list_and_comes_back_with_up(
    slurm: SlurmWorld, user: FleetUser, file: str, url: str
) -> None:
    number, _ = _jobs(slurm)["instance-1"]
    slurm.run("scancel", number)
    wait_until(lambda: user.phases()["instance-1"] == "ended", 60)
    assert set(ask(url, 4).served) == {"instance-0"}
    user.deploy("up", file)
    assert _jobs(slurm)["instance-1"][0] != number
    wait_until(lambda: "instance-1" in ask(url, 4).served, 60)


def _a_dead_node_is_off_the_list_and_its_job_is_requeued(
    slurm: SlurmWorld, user: FleetUser, url: str
) -> None:
    jobs = _jobs(slurm)
    elsewhere = (name for name, (_, node) in jobs.items() if node != jobs["scheduler-0"][1])
    name = next(name for name in elsewhere if name.startswith("instance"))
    number, node = jobs[name]
    slurm.kill_node(node)
    off_s = wait_until(lambda: not ask(url, 3).failed, 60)
    wait_until(lambda: user.phases()[name] != "ready", 90)
    back_s = wait_until(lambda: name in ask(url, 4).served, 240)
    assert _jobs(slurm)[name][0] == number
    print(f"node {node} died: requests all right after {off_s:.1f} s, its job back after {back_s:.1f} s")
    slurm.start_node(node)
