from __future__ import annotations

from typing import Any

import pytest

from block.config import parse_config
from block.errors import ConfigError
from block.fleet_config import FleetConfig
from deploy.fleet.group import Group, InstancePart, PredictorsPart
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
        "predictors-0": "a",
        "predictors-2": "c",
        "instance-0": "a",
        "instance-1": "b",
        "instance-2": "c",
        "instance-3": "a",
        "instance-4": "c",
        "scheduler-0": "a",
    }
    assert [group.gpus for group in groups] == [(), (), (0,), (0,), (0,), (1,), (1,), ()]


def predictor_urls(groups: tuple[Group, ...]) -> dict[str, str]:
    return {group.name: group.predictor_url("h") for group in groups if group.role == "instance"}


def test_predictors_of_a_host_that_has_room_for_several_share_a_process() -> None:
    backend = on(host("a", gpus=2), host("b", gpus=1))
    predictors, *others = place(config(instances=3, backend=backend), "")
    assert (predictors.name, predictors.host, predictors.ports) == ("predictors-0", "a", (8200,))
    assert isinstance(predictors.part, PredictorsPart)
    assert predictors.part.instances == ("instance-0", "instance-2")
    assert predictor_urls(tuple(others)) == {
        "instance-0": "http://h:8200/of/instance-0",
        "instance-1": "http://h:8201",
        "instance-2": "http://h:8200/of/instance-2",
    }
    assert [group.ports for group in others] == [(8100,), (8101, 8201), (8102,), (8000,)]


def test_each_predictor_may_have_a_process_of_its_own_and_has_where_slurm_chooses() -> None:
    several = {"instances": 2, "backend": on(host("a", gpus=2))}
    own = {"instance-0": "http://h:8200", "instance-1": "http://h:8201"}
    assert predictor_urls(place(config(**several, predictors_per_process=1), "")) == own
    assert predictor_urls(place(config(instances=2, backend={"kind": "slurm"}), "")) == own


def test_more_than_share_a_process_are_dealt_out_to_several() -> None:
    groups = place(
        config(instances=3, predictors_per_process=2, backend=on(host("a", instances=5))),
        "",
    )
    shared = [group.part.instances for group in groups if isinstance(group.part, PredictorsPart)]
    assert shared == [("instance-0", "instance-1"), ("instance-2", "instance-3")]


def test_a_fleet_that_grows_leaves_everybody_in_place() -> None:
    backend = on(host("a", gpus=4), host("b", gpus=4))
    small = place(config(instances=3, backend=backend), "s")
    large = place(config(instances=8, backend=backend), "s")
    digests = {group.name: group.digest for group in large}
    assert {group.name: group.digest for group in small}.items() <= digests.items()
    assert {"predictors-0", "predictors-1", "instance-2"} <= {group.name for group in small}


def test_ports_differ_within_a_fleet() -> None:
    for most, count in ((1, 8), (16, 6)):
        backend = on(host("a", instances=3))
        fleet = config(instances=3, schedulers=2, predictors_per_process=most, backend=backend)
        ports = [port for group in place(fleet, "") for port in group.ports]
        assert len(ports) == len(set(ports)) == count


def test_an_instance_of_several_gpus_is_tensor_parallel() -> None:
    [_, first, second, _] = place(config(instances=2, gpus_per_instance=2, backend=on(host("a", gpus=4))), "")
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
