"""From a cluster file and its overrides to a plan that can be started."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from block.access import is_loopback
from block.config import ClusterConfig, load_config, source_of
from block.errors import ConfigError, DeployError
from block.fleet_config import FleetConfig
from block.operation import AccessSettings, TlsSettings
from deploy.engine_command import missing_model
from deploy.plan import ClusterPlan, plan_cluster
from global_scheduler.settings_check import check_settings


def load_plan(file: Path, settings: Iterable[str] = (), instances: int | None = None) -> ClusterPlan:
    """Read ``file``, apply ``FIELD=VALUE`` settings; relative paths are taken from the file's project.

    So a cluster is the same one from whatever directory it is started. Raises ConfigError for a wrong
    setting or a file it names that is not there, DeployError when the model folder is missing.
    """
    config, root = load_settings(file, settings, instances), project_of(file)
    check_exposure(config, [config.host], file)
    plan = plan_cluster(config, root)
    if problem := missing_model(plan.model):
        raise DeployError(problem)
    _check_files(config, root, file)
    return plan


def load_settings(file: Path, settings: Iterable[str] = (), instances: int | None = None) -> FleetConfig:
    """Read ``file`` and apply ``FIELD=VALUE`` settings. Raises ConfigError for a wrong setting."""
    overrides = _overrides(settings, instances)
    config = load_config(file, FleetConfig, overrides)
    check_settings(
        config.scheduler,
        lambda field: f"{source_of(f'scheduler.{field}', str(file), overrides)}: scheduler.{field}",
    )
    return config


def load_cluster(file: Path, settings: Iterable[str] = ()) -> ClusterConfig:
    """Read ``file`` and apply ``FIELD=VALUE`` settings, without a look at what it names."""
    return load_config(file, ClusterConfig, _overrides(settings))


def check_exposure(config: ClusterConfig, hosts: Iterable[str], file: Path) -> None:
    """Raise ConfigError where others could use what listens on these hosts, unless that is wanted."""
    exposed = next((host for host in hosts if not is_loopback(host)), None)
    if exposed is None:
        return
    for service, settings in (("scheduler", config.scheduler), ("predictor", config.predictor)):
        access = settings.access
        if access.keys is None and not access.allow_anyone:
            raise ConfigError(
                f"{file}: host = {exposed!r}: others could use each {service}, and {service}.access.keys "
                f"names no keys; name them (env or file), or --set {service}.access.allow_anyone=true"
            )


def project_of(file: Path) -> Path:
    """The nearest folder above ``file`` that has a pyproject.toml; without one, the file's own folder."""
    folders = file.resolve().parents
    return next((folder for folder in folders if (folder / "pyproject.toml").is_file()), folders[0])


def _check_files(config: ClusterConfig, root: Path, file: Path) -> None:
    named = {
        "engine.latency": config.engine.latency,
        "predictor.latency": config.predictor.latency,
        "scheduler.tokenizer": config.scheduler.tokenizer,
        **_operation_files("scheduler", config.scheduler.access, config.scheduler.tls),
        **_operation_files("predictor", config.predictor.access, config.predictor.tls),
    }
    for field, path in named.items():
        if path is not None and not (root / path).is_file():
            raise ConfigError(
                f"{file}: {field} = {path}: there is no file {root / path}; "
                f"give an absolute path or one from {root}"
            )


def _operation_files(service: str, access: AccessSettings, tls: TlsSettings | None) -> dict[str, Path | None]:
    files = {f"{service}.access.keys.file": access.keys.file if access.keys else None}
    if tls is not None:
        files |= {f"{service}.tls.certificate": tls.certificate, f"{service}.tls.key": tls.key}
    return files


def _overrides(settings: Iterable[str], instances: int | None = None) -> dict[str, Any]:
    overrides = dict(_parse_setting(text) for text in settings)
    return overrides if instances is None else {**overrides, "instances": instances}


def _parse_setting(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not field or not equals:
        raise ConfigError(f"--set {text}: must be FIELD=VALUE, as in --set engine.max_num_seqs=24")
    try:
        return field, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML; quote it") from error
