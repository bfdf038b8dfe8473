from __future__ import annotations

from pathlib import Path

from block.config import PredictorConfig, SchedulerConfig, parse_config
from block.fleet_config import FleetConfig
from deploy.fleet.group import Group
from deploy.fleet.group_plan import plan_group
from deploy.fleet.placement import place

HOME, SOURCES = Path("/srv/fleets/lab/a/instance-0"), Path("/srv/sources-1")


def groups(listen: str = "10.0.0.1", gpus: int = 1) -> tuple[Group, ...]:
    raw = {
        "name": "lab",
        "instances": gpus,
        "engine": {"model": ".cache/m", "served_model_name": "m", "latency": "config/l.yaml"},
        "predictor": {"hangs": {"misses": 7}},
        "backend": {"kind": "ssh", "hosts": [{"name": "a", "address": listen, "gpus": gpus}]},
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
    assert engine.hangs is None
    assert predictor.hangs is not None
    assert predictor.hangs.misses == 7
    assert engine.health_url == "http://10.0.0.1:8100/health"
    assert not plan.socket_folder.is_relative_to(HOME)


def test_instances_whose_predictors_share_a_process_feed_it_and_need_it() -> None:
    predictors, first, second, _ = groups(gpus=2)
    plan = plan_group(predictors, HOME.with_name(predictors.name), SOURCES)
    [service] = plan.processes
    configs = list(plan.configs.values())
    for group, config in zip((first, second), configs, strict=True):
        assert isinstance(config, PredictorConfig)
        assert (config.instance, config.port, config.optional) == (group.name, 8200, True)
        assert config.latency == SOURCES / "config/l.yaml"
        [engine] = plan_group(group, HOME.with_name(group.name), SOURCES).processes
        assert config.feed in " ".join(engine.argv)
        assert engine.needs == f"http://10.0.0.1:8200/of/{group.name}/health"
    assert [word for word in service.argv if word.endswith(".yaml")] == [str(path) for path in plan.configs]
    assert (service.port, service.restarts) == (8200, True)
    assert service.hangs is not None
    assert service.hangs.misses == 7


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
