from __future__ import annotations

from pathlib import Path

import pytest

from block.config import parse_config
from block.errors import ConfigError
from block.fleet_config import FleetConfig, SecretReference
from deploy.fleet.secret import predictor_key, read_secrets


def test_secrets_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "one")
    (tmp_path / "key").write_text("two\n")
    references = {"A": SecretReference(env="MINE"), "B": SecretReference(file=tmp_path / "key")}
    assert read_secrets(references) == {"A": "one", "B": "two"}


def test_one_that_is_not_there_is_named_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MINE", raising=False)
    with pytest.raises(ConfigError, match=r"secrets\.A: the variable MINE is not set or empty"):
        read_secrets({"A": SecretReference(env="MINE")})
    with pytest.raises(ConfigError, match=r"secrets\.B: .*none cannot be read"):
        read_secrets({"B": SecretReference(file=tmp_path / "none")})


def _fleet(upstream: dict[str, object], **more: object) -> FleetConfig:
    engine = {"model": "/m", "served_model_name": "m", "latency": "/l.yaml"}
    raw = {"name": "lab", "engine": engine, "scheduler": {"upstream": upstream}, **more}
    return parse_config(raw, FleetConfig, "lab.yaml")


def test_the_predictors_key_is_the_one_that_schedulers_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "a-key-of-my-own")
    (tmp_path / "key").write_text("# of the lab\nanother-key-there\n")
    assert predictor_key(_fleet({}), tmp_path) == ""
    assert predictor_key(_fleet({"predictor_key": {"env": "MINE"}}), tmp_path) == "a-key-of-my-own"
    assert predictor_key(_fleet({"predictor_key": {"file": "key"}}), tmp_path) == "another-key-there"
    renamed = _fleet({"predictor_key": {"env": "THEIRS"}}, secrets={"THEIRS": {"env": "MINE"}})
    assert predictor_key(renamed, tmp_path) == "a-key-of-my-own"
    with pytest.raises(ConfigError, match=r"scheduler\.upstream\.predictor_key\.env = NOBODYS"):
        predictor_key(_fleet({"predictor_key": {"env": "NOBODYS"}}), tmp_path)
