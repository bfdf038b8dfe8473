from __future__ import annotations

from pathlib import Path

from block.config import PredictorConfig, SchedulerConfig, parse_config
from block.fleet_config import FleetConfig
from deploy.fleet.group import Group
from deploy.fleet.group_plan import plan_group
from deploy.fleet.placement import place

HOME, SOURCES = Path("/srv/fleets/lab/a/instance-0"), Path("/srv/sources-1")


def groups(listen: str = "10.0.0.1") -> tuple[Group, ...]:
    raw = {
        "name": "lab",
        "instances": 1,
        "engine": {"model": ".cache/m", "served_model_name": "m", "latency": "config/l.yaml"},
        "backend": {"kind": "ssh", "hosts": [{"name": "a", "address": listen, "gpus": 1}]},
    }
    return place(parse_config(raw, FleetConfig, "lab.yaml"), "s")


def test_an_instance_is_an_engine_and_a_predictor_that_share_a_feed() -> None:
    plan = plan_group(groups()[0], HOME, SOURCES)
    engine, predictor = plan.processes
    [config] = plan.configs.values()
    assert isinstance(config, PredictorConfig)
    assert (engine.name, predictor.name) == ("instance-0", "predictor-0")
    assert config.feed in " ".join(engine.argv)
    assert config.latency == SOURCES / "config/l.yaml"
    assert str(SOURCES / ".cache/m") in engine.argv
    assert engine.env["CUDA_VISIBLE_DEVICES"] == "0"
    assert engine.health_url == "http://10.0.0.1:8100/health"
    assert not plan.socket_folder.is_relative_to(HOME)


def test_a_scheduler_follows_the_file_of_its_host_and_is_ready_before_its_instances() -> None:
    plan = plan_group(groups()[1], HOME.with_name("scheduler-0"), SOURCES)
    [config] = plan.configs.values()
    assert isinstance(config, SchedulerConfig)
    assert config.instances_file == Path("/srv/fleets/lab/a/instances.json")
    assert plan.processes[0].ready_on == {200, 503}
    assert plan.openai_base_url == "http://10.0.0.1:8000/v1"


def test_what_listens_everywhere_is_polled_here() -> None:
    group = groups()[0].model_copy(update={"listen": "0.0.0.0", "address": "n1"})
    plan = plan_group(group, HOME, SOURCES)
    assert plan.processes[0].health_url == "http://127.0.0.1:8100/health"
    assert plan.openai_base_url == "http://n1:8100/v1"
