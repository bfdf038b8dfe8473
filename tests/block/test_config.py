"""Settings are checked at the edge, and an error says what to mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from block.config import SchedulerConfig, load_config
from block.errors import ConfigError

LOCAL = Path(__file__).resolve().parents[2] / "config/cluster/local.yaml"


def _scheduler(tmp_path: Path, *instances: dict[str, Any], **fields: Any) -> SchedulerConfig:
    path = tmp_path / "scheduler.yaml"
    path.write_text(yaml.safe_dump({"instances": list(instances), **fields}))
    return load_config(path, SchedulerConfig)


def test_instances_must_have_names_of_their_own(tmp_path: Path) -> None:
    twins = [{"name": "a", "url": f"http://127.0.0.1:{port}"} for port in (1, 2)]
    with pytest.raises(ConfigError, match=r"scheduler\.yaml: instances: several are named 'a'; give each"):
        _scheduler(tmp_path, *twins)
