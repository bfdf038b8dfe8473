from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from block.config import load_config, parse_config
from block.errors import ConfigError
from block.fleet_config import FleetConfig, SlurmBackend, SshBackend

ROOT = Path(__file__).resolve().parents[2]
HOST = {"name": "a", "address": "10.0.0.1"}


def config(**fields: Any) -> FleetConfig:
    engine = {"model": "m", "served_model_name": "m", "latency": "l.yaml"} | fields.pop("engine", {})
    return parse_config({"name": "lab", "engine": engine, **fields}, FleetConfig, "lab.yaml")


def ssh(**fields: Any) -> dict[str, Any]:
    return {"kind": "ssh", "hosts": [HOST], **fields}


def test_the_shipped_examples_are_valid() -> None:
    assert isinstance(load_config(ROOT / "config/cluster/ssh.yaml", FleetConfig).backend, SshBackend)
    assert isinstance(load_config(ROOT / "config/cluster/slurm.yaml", FleetConfig).backend, SlurmBackend)
    assert load_config(ROOT / "config/cluster/local.yaml", FleetConfig).backend is None


@pytest.mark.parametrize("name", ["HF_TOKEN", "MY_API_KEY", "db_password", "VLLM_API_KEYS"])
def test_a_secret_in_plain_text_is_refused_with_the_remedy_and_without_its_value(name: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        config(engine={"environment": {name: "hunter2"}})
    assert f"secrets: {{{name}: {{env: {name}}}}}" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_a_secret_is_in_one_place() -> None:
    assert config(secrets={"A": {"env": "B"}}).secrets["A"].env == "B"
    for wrong in ({}, {"env": "B", "file": "f"}):
        with pytest.raises(ConfigError, match="name either env or file"):
            config(secrets={"A": wrong})


@pytest.mark.parametrize("word", ["a; rm -rf /", "$(id)", "a b", "`id`", "x'y", ""])
def test_what_goes_into_a_shell_is_a_plain_word(word: str) -> None:
    for backend in (
        ssh(hosts=[HOST | {"ssh": word}]),
        ssh(hosts=[HOST | {"address": word}]),
        ssh(user=word),
        {"kind": "slurm", "partition": word},
    ):
        with pytest.raises(ConfigError):
            config(backend=backend)
    with pytest.raises(ConfigError):
        config(setup={"python": word})


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ({"kind": "kubernetes"}, "kubernetes"),
        (ssh(hosts=[]), "at least 1 item"),
        (ssh(hosts=[HOST, HOST]), "several hosts are named 'a'"),
        (ssh(scheduler_hosts=["b"]), "names 'b', which is no host; known: a"),
    ],
)
def test_a_wrong_backend_is_explained(backend: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(backend=backend)


def test_several_schedulers_need_a_backend() -> None:
    with pytest.raises(ConfigError, match="several schedulers need a backend"):
        config(schedulers=2)


@pytest.mark.parametrize("service", ["scheduler", "predictor"])
def test_tls_is_refused_on_fleets_with_what_to_do_instead(service: str) -> None:
    tls = {service: {"tls": {"certificate": "/c.pem"}}}
    assert config(**tls)
    with pytest.raises(ConfigError, match=f"{service}.tls is for clusters without a backend; .* put a proxy"):
        config(backend=ssh(), **tls)


@pytest.mark.parametrize("name", ["ssh", "slurm"])
def test_what_the_examples_have_in_comments_is_right(name: str) -> None:
    text = (ROOT / f"config/cluster/{name}.yaml").read_text()
    head, section = text.split("\nprovisioning:\n")
    whole = head + "\nprovisioning:\n" + re.sub(r"^  # (\w+: )", r"  \1", section, flags=re.MULTILINE)
    settings = parse_config(yaml.safe_load(whole), FleetConfig, name).provisioning
    assert settings.dry_run == (name == "ssh")
    assert load_config(ROOT / f"config/cluster/{name}.yaml", FleetConfig).predictor.access.keys is not None
