from __future__ import annotations

from typing import Any

from block.config import parse_config
from block.fleet_config import FleetConfig, SlurmBackend
from deploy.fleet.group import Group
from deploy.fleet.placement import place
from deploy.fleet.slurm_queue import Job, read_queue, sbatch_options


def fleet(**backend: Any) -> tuple[SlurmBackend, tuple[Group, ...]]:
    raw = {
        "name": "jobs",
        "instances": 1,
        "engine": {"model": "m", "served_model_name": "m", "latency": "l.yaml"},
        "backend": {"kind": "slurm", **backend},
    }
    config = parse_config(raw, FleetConfig, "jobs.yaml")
    assert isinstance(config.backend, SlurmBackend)
    return config.backend, place(config, "s")


def test_the_queue_is_read_with_its_reasons() -> None:
    printed = (
        "12|block:jobs:instance-0|RUNNING|n1|None\n"
        "13|block:jobs:instance-1|PENDING||Nodes required for job are DOWN, DRAINED or reserved\n"
        "slurm_load_jobs error: a warning\n"
    )
    assert read_queue(printed) == (
        Job("12", "block:jobs:instance-0", "RUNNING", "n1", "None"),
        Job(
            "13",
            "block:jobs:instance-1",
            "PENDING",
            "",
            "Nodes required for job are DOWN, DRAINED or reserved",
        ),
    )


def test_a_job_asks_for_what_the_file_says() -> None:
    backend, [instance, _] = fleet(
        partition="gpu", gpu_type="a30", cpus=8, memory_mb=1000, time_limit_min=60, options=["--exclude=n9"]
    )
    options = sbatch_options(backend, instance, 2, "/shared/log")
    assert {
        *("--partition=gpu", "--gres=gpu:a30:2", "--cpus-per-task=8", "--mem=1000M", "--time=60"),
        *("--exclude=n9", "--requeue", "--job-name=block:jobs:instance-0", "--signal=B:USR1@120"),
    } <= set(options)


def test_a_scheduler_asks_for_no_gpu_and_may_go_elsewhere() -> None:
    backend, [_, scheduler] = fleet(partition="gpu", scheduler_partition="cpu", memory_mb=1000)
    options = sbatch_options(backend, scheduler, 0, "/shared/log")
    assert "--partition=cpu" in options
    assert "--cpus-per-task=1" in options
    assert not [option for option in options if option.startswith(("--gres", "--mem", "--account"))]


def test_a_job_inherits_only_what_a_shell_needs() -> None:
    backend, [instance, _] = fleet()
    assert "--export=HOME,PATH,USER,LOGNAME,LANG" in sbatch_options(backend, instance, 0, "log")
