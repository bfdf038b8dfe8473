"""The command line's refusals; the process itself is tested with a whole cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from predictor.cli import app

TABLE = Path(__file__).parents[2] / "config/latency/a30-llama-2-7b.yaml"


@pytest.mark.parametrize(
    ("settings", "flags", "complaint"),
    [
        ({}, [], "host = '0.0.0.0': others could use it, and settings.access.keys names no keys"),
        ({"tls": {"certificate": "none.pem"}}, ["--allow-anyone"], "settings.tls.certificate = none.pem"),
        ({"access": {"keys": {"env": "NO_SUCH_KEYS"}}}, [], "NO_SUCH_KEYS: there is no such environment"),
    ],
)
def test_what_must_not_start_is_one_clear_line(tmp_path: Path, settings, flags, complaint):
    path = tmp_path / "predictor.yaml"
    config = {"instance": "a", "feed": f"ipc://{tmp_path}/feed", "latency": str(TABLE), "port": 1}
    path.write_text(yaml.safe_dump({**config, "host": "0.0.0.0", "settings": settings}))
    result = CliRunner().invoke(app, ["--config", str(path), *flags])
    assert result.exit_code == 1
    assert complaint in result.output
    assert result.output.count("\n") == 1
