from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from block.errors import ConfigError, DeployError
from deploy.cluster_file import load_plan, project_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A cluster file in a project of its own, with all that it names."""
    project = tmp_path / "project"
    path = project / "config" / "cluster" / "fleet.yaml"
    for folder in (path.parent, project / "model"):
        folder.mkdir(parents=True)
    for name in ("pyproject.toml", "table.yaml", "model/config.json", "model/tokenizer.json"):
        (project / name).touch()
    engine = {"model": "model", "served_model_name": "m", "latency": "table.yaml"}
    scheduler = {"tokenizer": "model/tokenizer.json"}
    path.write_text(yaml.safe_dump({"name": "fleet", "engine": engine, "scheduler": scheduler}))
    return path


@pytest.mark.parametrize("folder", [".", "project", "project/config/cluster"])
def test_a_cluster_is_the_same_from_whatever_directory(
    folder: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan(file)
    monkeypatch.chdir(tmp_path / folder)
    relative = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    assert load_plan(relative) == plan
    assert plan.folder == tmp_path / "project/run/fleet"
    assert plan.model == tmp_path / "project/model"


def test_outside_a_project_paths_are_taken_from_the_files_folder(file: Path, tmp_path: Path) -> None:
    (tmp_path / "project/pyproject.toml").unlink()
    assert project_of(file) == file.parent


@pytest.mark.parametrize("field", ["engine.latency", "predictor.latency", "scheduler.tokenizer"])
def test_a_file_that_is_not_there_is_named_before_anything_starts(
    field: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plan(file, [f"{field}=nowhere.yaml"])
    project = tmp_path / "project"
    assert str(caught.value) == (
        f"{file}: {field} = nowhere.yaml: there is no file {project}/nowhere.yaml; "
        f"give an absolute path or one from {project}"
    )


def test_a_model_that_is_not_there_comes_with_the_command_that_makes_it(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=f"--out {tmp_path}/project/llama"):
        load_plan(file, ["engine.model=llama"])


def test_a_cluster_that_others_could_use_without_keys_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"host = '0.0.0.0': .*scheduler.access.keys names no keys"):
        load_plan(file, ["host=0.0.0.0"])
    wanted = ["scheduler.access.allow_anyone=true", "predictor.access.allow_anyone=true"]
    assert load_plan(file, ["host=0.0.0.0", *wanted])


@pytest.mark.parametrize("field", ["scheduler.access.keys.file", "predictor.tls.certificate"])
def test_a_key_or_certificate_that_is_not_there_is_named_before_anything_starts(
    field: str, file: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"{field} = nowhere: there is no file"):
        load_plan(file, [f"{field}=nowhere"])
