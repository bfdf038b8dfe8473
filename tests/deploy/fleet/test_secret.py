from __future__ import annotations

from pathlib import Path

import pytest

from block.errors import ConfigError
from block.fleet_config import SecretReference
from deploy.fleet.secret import read_secrets


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
