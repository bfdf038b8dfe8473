"""Settings are checked at the edge, and an error says what to mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from block.config import ClusterConfig, SchedulerConfig, load_config, load_instances
from block.errors import ConfigError
from block.latency.table import LatencyTable

LOCAL = Path(__file__).resolve().parents[2] / "config/cluster/local.yaml"


def _scheduler(tmp_path: Path, *instances: dict[str, Any], **fields: Any) -> SchedulerConfig:
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump({"instances": list(instances), **fields}))
    return load_config(path, SchedulerConfig)


def test_instances_must_have_names_of_their_own(tmp_path: Path) -> None:
    twins = [{"name": "a", "url": f"http://127.0.0.1:{port}"} for port in (1, 2)]
    with pytest.raises(ConfigError, match=r"scheduler\.yaml: instances: several are named 'a'; give each"):
        _scheduler(tmp_path, *twins)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instances", True),
        ("instances", "3"),
        ("instances", 2.5),
        ("engine.max_num_seqs", True),
        ("engine.num_gpu_blocks", True),
        ("engine.prefix_caching", 1),
        ("engine.prefix_caching", "on"),
        ("scheduler_port", True),
        ("scheduler.probe_deadline_s", True),
        ("scheduler.probe_deadline_s", "0.1"),
        ("scheduler.probe_deadline_s", float("nan")),
        ("scheduler.idle_timeout_s", float("inf")),
        ("host", ""),
    ],
)
def test_values_of_a_wrong_type_are_refused_and_not_converted(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(LOCAL, ClusterConfig, {field: value})
    assert str(caught.value).startswith(f"--set: {field} = {value!r}: ")


def test_numbers_may_be_written_without_a_point() -> None:
    assert (
        load_config(LOCAL, ClusterConfig, {"scheduler.probe_deadline_s": 1}).scheduler.probe_deadline_s == 1.0
    )


def test_an_error_names_the_file_or_the_setting_that_it_is_in(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(LOCAL.read_text() + "\nready_timeout_s: soon\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ClusterConfig, {"engine.max_num_seq": 3, "predictor": {"commit_ttl_s": -1}})
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(": ")[0] for line in lines) == ["--set", "--set", str(path)]
    assert any("engine.max_num_seq: unknown setting; known here: model, " in line for line in lines)
    assert any("predictor.commit_ttl_s = -1" in line for line in lines)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("name: a\nengine: {block_size: 16, block_size: 32}\n")
    with pytest.raises(ConfigError, match=r"cluster\.yaml: not valid YAML \('block_size' is given twice"):
        load_config(path, ClusterConfig)


@pytest.mark.parametrize("value", ["2026-13-45", "9" * 5000, "!!timestamp soon", "!!int x", "[" * 2000])
def test_a_value_that_the_yaml_reader_trips_over_is_an_error_like_others(tmp_path: Path, value: str) -> None:
    path = tmp_path / "instances.yaml"
    path.write_text(f"- {{name: {value}, url: 'http://a:1'}}\n")
    with pytest.raises(ConfigError, match=r"instances\.yaml: not valid YAML"):
        load_instances(path)


def test_a_step_time_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latency.yaml"
    path.write_text("source: here\ntokens_ms: {1: .nan, 2: 1.0}\n")
    with pytest.raises(ConfigError, match=r"tokens_ms\.1 = nan: "):
        load_config(path, LatencyTable)


@pytest.mark.parametrize("field", ["url", "predictor_url"])
@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "http://",
        "http://:80",
        "http://127.0.0.1:notaport",
        "http://a:70000",
        "http://a:0",
        "http://[::1",
        "http://a..b:80",
        f"http://{'a' * 64}.example:80",
        "http://a:80/\n",
    ],
)
def test_an_address_that_cannot_be_one_is_refused(tmp_path: Path, field: str, url: str) -> None:
    instance = {"name": "a", "url": "http://127.0.0.1:1", field: url}
    with pytest.raises(ConfigError) as caught:
        _scheduler(tmp_path, instance)
    assert f"scheduler.yaml: instances.0.{field} = {url!r}: " in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8100", "https://gpu-1.example/prefix/", "http://[::1]:80"])
def test_addresses_of_all_common_kinds_pass(tmp_path: Path, url: str) -> None:
    assert _scheduler(tmp_path, {"name": "a", "url": url}).instances[0].url == url
