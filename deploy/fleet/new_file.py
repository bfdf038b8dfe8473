"""Writing a cluster file: what was asked for, and comments on what else can be set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from block.config import parse_config
from block.errors import ConfigError
from block.fleet_config import FleetConfig, HostConfig


@dataclass(frozen=True, slots=True)
class Draft:
    """What a new file says; the rest is left to defaults."""

    name: str
    backend: dict[str, Any]
    instances: int
    schedulers: int = 1
    executor: str = "emulated"
    model: str = ".cache/models/llama-2-7b"
    served_model_name: str = "llama-2-7b"


def backend_of(hosts: tuple[HostConfig, ...]) -> dict[str, Any]:
    """The back end of hosts that ssh reaches."""
    return {"kind": "ssh", "hosts": [host.model_dump(mode="json", exclude_defaults=True) for host in hosts]}


def room_on(hosts: tuple[HostConfig, ...]) -> int:
    """Instances that such hosts take: one per GPU, one on a host without any."""
    return sum(host.gpus or 1 for host in hosts)


def render(draft: Draft) -> str:
    """The file's text. Raises ConfigError if it would not be accepted."""
    text = _TEMPLATE.format(
        name=draft.name,
        instances=draft.instances,
        schedulers=draft.schedulers,
        backend=_block({"backend": draft.backend}),
        engine=_engine(draft),
        engine_build=_BUILDS[draft.executor],
        tokenizer=f"{draft.model}/tokenizer.json",
    )
    parse_config(yaml.safe_load(text), FleetConfig, "the new file")
    return text


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write it; raises ConfigError when there is such a file already, unless ``force``."""
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: is there already; choose another name or give --force") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _engine(draft: Draft) -> str:
    settings: dict[str, Any] = {
        "model": draft.model,
        "served_model_name": draft.served_model_name,
        "executor": draft.executor,
        "latency": "config/latency/a30-llama-2-7b.yaml",
    }
    if draft.executor == "emulated":
        settings["num_gpu_blocks"] = 1053
    return _block({"engine": settings})


def _block(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()


_BUILDS = {
    "real": "  engine: vllm==0.32.0        # in place of the lock's CPU build",
    "emulated": "#   engine: vllm==0.32.0      # in place of the lock's CPU build, on hosts with GPUs",
}

_TEMPLATE = """\
# A fleet of {instances} instances; `block-deploy plan` shows what will run where, `block-deploy doctor`
# whether the hosts are fit for it. Every setting: block/config.py and block/fleet_config.py.
name: {name}
instances: {instances}
schedulers: {schedulers}
# gpus_per_instance: 1        # on hosts that have GPUs
scheduler_port: 8000          # further schedulers, engines and predictors take the next ports
engine_port: 8100
predictor_port: 8200
ready_timeout_s: 600.0
{backend}
setup:
  python: python3.11
{engine_build}
#   environment: /opt/block   # one that is on every host already; else one is made from requirements.lock
#   prepare: [module load cuda]
# secrets:                    # where they are read when the fleet starts; never their values
#   HF_TOKEN: {{env: HF_TOKEN}}
#   BLOCK_KEYS: {{file: ~/.config/block/keys}}
#   BLOCK_PREDICTOR_KEY: {{file: ~/.config/block/predictor-key}}
{engine}
# With allow_anyone, whoever reaches these hosts may use the fleet. The comments take keys in its place.
predictor:
  access: {{allow_anyone: true}}
#   access: {{keys: {{env: BLOCK_PREDICTOR_KEY}}}}
scheduler:
  access: {{allow_anyone: true}}
#   access: {{keys: {{env: BLOCK_KEYS}}}}
#   upstream: {{predictor_key: {{env: BLOCK_PREDICTOR_KEY}}}}
  policy: block
  estimator: history
  tokenizer: {tokenizer}
# provisioning:               # how many instances there are, while `block-deploy provision` runs
#   strategy: slo
#   min_instances: 1
#   max_instances: {instances}
#   slo_ttft_s: 3.0
#   cold_start_s: 60.0        # from asking for an instance to its first request
"""
