"""From a cluster file and its overrides to a plan that can be started."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from block.config import ClusterConfig, load_config, source_of
from block.errors import ConfigError, DeployError
from deploy.engine_command import missing_model
from deploy.plan import ClusterPlan, plan_cluster
from global_scheduler.settings_check import check_settings


def load_plan(file: Path, settings: Iterable[str] = (), instances: int | None = None) -> ClusterPlan:
    """Read ``file``, apply ``FIELD=VALUE`` settings; relative paths are taken from the working directory.

    Raises ConfigError for a wrong setting, DeployError when the model folder is missing.
    """
    overrides = dict(_parse_setting(text) for text in settings)
    if instances is not None:
        overrides["instances"] = instances
    config = load_config(file, ClusterConfig, overrides)
    check_settings(
        config.scheduler,
        lambda field: f"{source_of(f'scheduler.{field}', str(file), overrides)}: scheduler.{field}",
    )
    plan = plan_cluster(config, Path.cwd())
    if problem := missing_model(plan.model):
        raise DeployError(problem)
    return plan


def _parse_setting(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not field or not equals:
        raise ConfigError(f"--set {text}: must be FIELD=VALUE, as in --set engine.max_num_seqs=24")
    try:
        return field, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML; quote it") from error
