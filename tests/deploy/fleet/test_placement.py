from __future__ import annotations

from typing import Any

import pytest

from block.config import parse_config
from block.errors import ConfigError
from block.fleet_config import FleetConfig
from deploy.fleet.group import Group, InstancePart
from deploy.fleet.placement import host_names, place


def config(**fields: Any) -> FleetConfig:
    engine = {"model": "m", "served_model_name": "m", "latency": "l.yaml", "executor": "real"}
    return parse_config({"name": "lab", "engine": engine, **fields}, FleetConfig, "lab.yaml")


def host(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


def on(*hosts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"kind": "ssh", "hosts": list(hosts), **fields}


def where(groups: tuple[Group, ...]) -> dict[str, str]:
    return {group.name: group.host for group in groups}


def test_instances_are_dealt_out_one_per_host_and_round() -> None:
    groups = place(
        config(instances=5, backend=on(host("a", gpus=2), host("b", gpus=1), host("c", gpus=4))), ""
    )
    assert where(groups) == {
        "instance-0": "a",
        "instance-1": "b",
        "instance-2": "c",
        "instance-3": "a",
        "instance-4": "c",
        "scheduler-0": "a",
    }
    assert [group.gpus for group in groups[:5]] == [(0,), (0,), (0,), (1,), (1,)]


def test_a_fleet_that_grows_leaves_everybody_in_place() -> None:
    backend = on(host("a", gpus=4), host("b", gpus=4))
    small = place(config(instances=3, backend=backend), "s")
    large = place(config(instances=8, backend=backend), "s")
    assert [group.digest for group in small[:3]] == [group.digest for group in large[:3]]


def test_ports_differ_within_a_fleet() -> None:
    groups = place(config(instances=3, schedulers=2, backend=on(host("a", instances=3))), "")
    ports = [port for group in groups for port in group.ports]
    assert len(ports) == len(set(ports)) == 8


def test_an_instance_of_several_gpus_is_tensor_parallel() -> None:
    [first, second, _] = place(config(instances=2, gpus_per_instance=2, backend=on(host("a", gpus=4))), "")
    assert (first.gpus, second.gpus) == ((0, 1), (2, 3))
    assert isinstance(first.part, InstancePart)
    assert first.part.engine.extra_flags == ("--tensor-parallel-size", "2")


def test_a_host_may_emulate_what_others_compute() -> None:
    groups = place(config(instances=2, backend=on(host("a", gpus=1), host("b", executor="emulated"))), "")
    engines = [group.part.engine for group in groups if isinstance(group.part, InstancePart)]
    assert [engine.executor for engine in engines] == ["real", "emulated"]


def test_schedulers_run_where_they_are_told() -> None:
    backend = on(host("head", instances=0), host("a"), host("b"), scheduler_hosts=["head"])
    groups = place(config(instances=2, schedulers=2, backend=backend), "")
    assert where(groups)["scheduler-0"] == where(groups)["scheduler-1"] == "head"
    assert host_names(config(backend=backend)) == ("head", "a", "b")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instances": 3, "backend": on(host("a", gpus=2))}, "the hosts have room for 2"),
        ({"backend": on(host("a", gpus=2, instances=3))}, "a has 2 GPUs, too few for 3"),
        ({"instances": 2, "engine_port": 8199, "backend": {"kind": "slurm"}}, "port 8200 is also"),
        ({"engine_port": 65534, "backend": {"kind": "slurm"}}, "leaves no room for 3 ports"),
    ],
)
def test_what_cannot_be_placed_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place(config(**fields), "")


def test_the_digest_tells_what_a_running_group_would_notice() -> None:
    backend = on(host("a"))
    first = place(config(instances=1, backend=backend), "s")[0]
    assert place(config(instances=1, backend=backend, ready_timeout_s=9.0), "s")[0].digest == first.digest
    assert place(config(instances=1, backend=backend), "other")[0].digest != first.digest
    assert place(config(instances=1, backend=backend, engine_port=9000), "s")[0].digest != first.digest
