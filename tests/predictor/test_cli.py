"""The command line's refusals; the process itself is tested with a whole cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from exp.free_port import free_port
from exp.predictor_process import running_together
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


def test_several_predictors_share_a_process_and_a_port(tmp_path: Path) -> None:
    feeds = {name: f"ipc://{tmp_path}/{name}" for name in "ab"}
    with running_together(feeds, TABLE, tmp_path) as predictors:
        wait = httpx.HTTPTransport(retries=20)  # a refused connection is tried again, later each time
        with httpx.Client(transport=wait, timeout=60) as http:
            names = [http.get(f"{one.url}/health").json()["instance"] for one in predictors]
        assert names == ["a", "b"]
        (process,) = {one.process for one in predictors}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_one_bad_file_of_several_starts_none(tmp_path: Path) -> None:
    good = {"instance": "a", "feed": f"ipc://{tmp_path}/a", "latency": str(TABLE), "port": free_port()}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(good))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({**good, "port": -1}))
    argv = [sys.executable, "-m", "predictor.cli"]
    for name in "ab":
        argv += ["--config", str(tmp_path / f"{name}.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("block-predictor: ")
    assert "b.yaml" in done.stderr
    assert "listening" not in done.stderr
