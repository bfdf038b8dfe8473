from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from block.config import (
    ClusterConfig,
    InstanceConfig,
    PredictorConfig,
    SchedulerConfig,
    load_config,
    parse_config,
)
from block.errors import ConfigError
from deploy.plan import ClusterPlan, ProcessPlan, plan_cluster

ROOT = Path("/srv/block")
LOCAL = Path(__file__).resolve().parents[2] / "config/cluster/local.yaml"


def plan(root: Path = ROOT, **overrides: Any) -> ClusterPlan:
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return plan_cluster(load_config(LOCAL, ClusterConfig, dotted), root)


def engine(**overrides: Any) -> ProcessPlan:
    return plan(**overrides).processes[0]


def option(process: ProcessPlan, flag: str) -> str:
    return process.argv[process.argv.index(flag) + 1]


def plugin_settings(process: ProcessPlan) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(option(process, "--additional-config"))["block"]
    return settings


def test_a_cluster_is_its_engines_one_process_for_their_predictors_and_one_scheduler() -> None:
    processes = plan(instances=2).processes
    assert [(p.name, p.role, p.port) for p in processes] == [
        ("instance-0", "engine", 8100),
        ("instance-1", "engine", 8101),
        ("predictors-0", "predictor", 8200),
        ("scheduler", "scheduler", 8000),
    ]
    assert processes[1].health_url == "http://127.0.0.1:8101/health"
    assert processes[1].log == ROOT / "run/local/logs/instance-1.log"


def test_the_engine_gets_every_setting() -> None:
    process = engine(engine__max_num_seqs=24, engine__policy="priority", engine__prefix_caching=True)
    assert process.argv[:3] == (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    assert option(process, "--model") == "/srv/block/.cache/models/llama-2-7b"
    assert option(process, "--served-model-name") == "llama-2-7b"
    assert option(process, "--port") == "8100"
    assert option(process, "--num-gpu-blocks-override") == "1053"
    assert option(process, "--block-size") == "16"
    assert option(process, "--max-num-seqs") == "24"
    assert option(process, "--max-num-batched-tokens") == "512"
    assert option(process, "--max-model-len") == "4096"
    assert option(process, "--scheduling-policy") == "priority"
    assert "--enable-prefix-caching" in process.argv
    assert process.env["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("asynchronous", "flag", "scheduler"),
    [
        (True, "--async-scheduling", "block.vllm_plugin.scheduler.AsyncFeedScheduler"),
        (False, "--no-async-scheduling", "block.vllm_plugin.scheduler.FeedScheduler"),
    ],
)
def test_the_scheduler_class_goes_with_the_way_of_scheduling(
    asynchronous: bool, flag: str, scheduler: str
) -> None:
    process = engine(engine__async_scheduling=asynchronous)
    assert flag in process.argv
    assert option(process, "--scheduler-cls") == scheduler


def test_an_emulated_engine_loads_no_weights_and_knows_its_latency_model() -> None:
    process = engine()
    assert option(process, "--load-format") == "dummy"
    assert option(process, "--distributed-executor-backend") == (
        "block.vllm_plugin.emulated_executor.EmulatedExecutor"
    )
    assert plugin_settings(process)["emulation"] == {
        "latency": "/srv/block/config/latency/a30-llama-2-7b.yaml"
    }


def test_a_real_engine_computes_and_still_feeds_its_predictor() -> None:
    process = engine(engine__executor="real")
    assert "--load-format" not in process.argv
    assert "--distributed-executor-backend" not in process.argv
    assert plugin_settings(process) == {"feed": {"address": "ipc:///srv/block/run/local/feed-0.sock"}}


def test_without_a_block_count_vllm_measures_its_memory() -> None:
    assert "--num-gpu-blocks-override" not in engine(engine__num_gpu_blocks=None).argv


def test_further_flags_come_last_so_that_they_win() -> None:
    assert engine(engine__extra_flags=["--seed", "7"]).argv[-2:] == ("--seed", "7")


def test_predictors_and_scheduler_are_told_of_each_other_and_of_the_engines() -> None:
    made = plan(instances=2)
    predictor = made.configs[ROOT / "run/local/predictor-1.yaml"]
    scheduler = made.configs[ROOT / "run/local/scheduler.yaml"]
    assert isinstance(predictor, PredictorConfig)
    assert isinstance(scheduler, SchedulerConfig)
    assert predictor.instance == "instance-1"
    assert predictor.feed == plugin_settings(made.processes[1])["feed"]["address"]
    assert predictor.latency == ROOT / "config/latency/a30-llama-2-7b.yaml"
    assert [(i.name, i.url, i.predictor_url) for i in scheduler.instances] == [
        ("instance-0", "http://127.0.0.1:8100", "http://127.0.0.1:8200/of/instance-0"),
        ("instance-1", "http://127.0.0.1:8101", "http://127.0.0.1:8200/of/instance-1"),
    ]
    assert scheduler.settings.tokenizer == ROOT / ".cache/models/llama-2-7b/tokenizer.json"
    assert option(made.processes[-1], "--config") == "/srv/block/run/local/scheduler.yaml"


def predictors(made: ClusterPlan) -> dict[str, int]:
    return {process.name: process.port for process in made.processes if process.role == "predictor"}


def predictor_urls(made: ClusterPlan) -> list[str | None]:
    scheduler = made.configs[made.folder / "scheduler.yaml"]
    assert isinstance(scheduler, SchedulerConfig)
    return [instance.predictor_url for instance in scheduler.instances]


def test_each_predictor_may_have_a_process_and_a_port_of_its_own() -> None:
    made = plan(instances=2, predictors_per_process=1)
    assert predictors(made) == {"predictor-0": 8200, "predictor-1": 8201}
    assert predictor_urls(made) == ["http://127.0.0.1:8200", "http://127.0.0.1:8201"]


def test_more_predictors_than_share_a_process_are_dealt_out_to_several() -> None:
    made = plan(instances=5, predictors_per_process=2)
    assert predictors(made) == {"predictors-0": 8200, "predictors-2": 8202, "predictor-4": 8204}
    configs = [made.configs[made.folder / f"predictor-{index}.yaml"] for index in range(5)]
    ports = [config.port for config in configs if isinstance(config, PredictorConfig)]
    assert ports == [8200, 8200, 8202, 8202, 8204]
    assert predictor_urls(made)[3:] == ["http://127.0.0.1:8202/of/instance-3", "http://127.0.0.1:8204"]
    [shared] = [process for process in made.processes if process.name == "predictors-2"]
    folder = ROOT / "run/local"
    expected = ("--config", f"{folder}/predictor-2.yaml", "--config", f"{folder}/predictor-3.yaml")
    assert shared.argv[3:] == expected


def test_only_what_holds_nothing_is_started_again() -> None:
    made = plan(predictor__hangs__misses=5).processes
    assert {process.role for process in made if process.restarts} == {"predictor"}
    assert {process.hangs.misses for process in made if process.hangs} == {5}
    assert {process.role for process in made if process.hangs} == {"predictor"}


def test_a_predictor_may_have_a_latency_model_of_its_own() -> None:
    predictor = plan(predictor__latency="other.yaml").configs[ROOT / "run/local/predictor-0.yaml"]
    assert isinstance(predictor, PredictorConfig)
    assert predictor.latency == ROOT / "other.yaml"


def test_socket_paths_stay_short_however_deep_the_run_folder() -> None:
    deep = Path("/" + "/".join(["a-long-folder-name"] * 8))
    made = plan(root=deep)
    address = plugin_settings(made.processes[0])["feed"]["address"]
    assert len(address.removeprefix("ipc://")) < 100
    assert made.socket_folder != made.folder
    assert plan(root=deep).socket_folder == made.socket_folder
    assert plan(root=deep / "b").socket_folder != made.socket_folder


def test_planning_is_repeatable() -> None:
    assert plan() == plan()


def test_ports_that_would_be_shared_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="port 8102 is also in the range of engine_port; set them at least 3"
    ):
        plan(predictor_port=8102)
    with pytest.raises(ConfigError, match="scheduler_port"):
        plan(scheduler_port=8101)


def test_ports_beyond_the_last_are_refused() -> None:
    with pytest.raises(ConfigError, match="engine_port = 65534: leaves no room for 3 ports"):
        plan(engine_port=65534)


@pytest.mark.parametrize("name", [".", "..", ".hidden", "-flag", "_x", "a/b", "a\n"])
def test_a_name_that_could_lead_out_of_the_run_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name = "):
        plan(name=name)
    with pytest.raises(ConfigError, match="name = "):
        parse_config({"name": name, "url": "http://127.0.0.1:1"}, InstanceConfig, "instances")


def test_a_name_may_have_dots_and_dashes_inside() -> None:
    assert plan(name="a30-v1.2_b").folder == ROOT / "run/a30-v1.2_b"


def test_certificates_make_it_https_and_lie_in_the_project() -> None:
    made = plan(scheduler__tls__certificate="tls/s.pem", predictor__tls__certificate="tls/p.pem", instances=1)
    assert [process.health_url for process in made.processes] == [
        "http://127.0.0.1:8100/health",
        "https://127.0.0.1:8200/health",
        "https://127.0.0.1:8000/health",
    ]
    assert made.openai_base_url == "https://127.0.0.1:8000/v1"
    scheduler = made.configs[ROOT / "run/local/scheduler.yaml"]
    assert isinstance(scheduler, SchedulerConfig)
    assert scheduler.instances[0].predictor_url == "https://127.0.0.1:8200"
    assert scheduler.settings.tls is not None
    assert scheduler.settings.tls.certificate == ROOT / "tls/s.pem"
