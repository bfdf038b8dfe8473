from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from block.config import parse_config
from block.errors import ConfigError
from block.fleet_config import FleetConfig
from deploy.fleet.bundle import bundle_of


def config(**engine: str) -> FleetConfig:
    settings = {"model": "models/m", "served_model_name": "m", "latency": "l.yaml"} | engine
    raw = {"name": "lab", "engine": settings, "setup": {"environment": "/opt/block"}}
    return parse_config(raw, FleetConfig, "lab.yaml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.json").write_text("{}")
    (tmp_path / "l.yaml").write_text("x")
    return tmp_path


def test_sources_and_what_the_file_names_go_along(root: Path) -> None:
    bundle = bundle_of(config(), root)
    with tarfile.open(fileobj=io.BytesIO(bundle.tar())) as archive:
        names = set(archive.getnames())
    assert {"deploy/fleet/agent.py", "block/config.py", "models/m/config.json", "l.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests/", "/")) or "__pycache__" in name]


def test_the_digest_follows_the_contents(root: Path) -> None:
    before = bundle_of(config(), root).digest
    assert bundle_of(config(), root).digest == before
    (root / "l.yaml").write_text("y")
    assert bundle_of(config(), root).digest != before


def test_absolute_paths_are_the_hosts_own(root: Path) -> None:
    bundle = bundle_of(config(model="/models/m", latency="/l.yaml"), root)
    assert not [name for name in bundle.files if "models" in name.split("/")[0]]


@pytest.mark.parametrize("path", ["none.yaml", "../l.yaml"])
def test_what_cannot_go_along_is_named(root: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.latency = .*: there is no "):
        bundle_of(config(latency=path), root)


def test_weights_are_not_copied(root: Path) -> None:
    with (root / "models" / "m" / "model.safetensors").open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(ConfigError, match=r"engine\.model = models/m: 100 MiB are too much"):
        bundle_of(config(), root)
