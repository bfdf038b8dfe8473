"""Reading secrets where the cluster file says they are. Values are never shown, logged or put in an error."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from block import access
from block.errors import ConfigError
from block.fleet_config import FleetConfig, SecretReference


def read_secrets(references: Mapping[str, SecretReference]) -> dict[str, str]:
    """Variable -> value. Raises ConfigError for one that is not there, or is empty."""
    return {name: _read(name, reference) for name, reference in references.items()}


def predictor_key(config: FleetConfig, root: Path) -> str:
    """What the fleet's predictors take, as its schedulers are told; empty where they take no key.

    Raises ConfigError when there is none to be had.
    """
    source = config.scheduler.upstream.predictor_key
    if source is None:
        return ""
    if source.env in config.secrets:
        return _read(source.env, config.secrets[source.env]).split()[0]
    return access.read_secrets(source.anchored(root), "scheduler.upstream.predictor_key")[0].decode()


def _read(name: str, reference: SecretReference) -> str:
    if reference.env is not None:
        value = os.environ.get(reference.env, "")
        place = f"the variable {reference.env}"
    else:
        assert reference.file is not None
        path = reference.file.expanduser()
        place = str(path)
        try:
            value = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"secrets.{name}: {place} cannot be read; check the file") from error
    if not value:
        raise ConfigError(f"secrets.{name}: {place} is not set or empty; set it where `up` runs")
    return value
