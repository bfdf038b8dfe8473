"""``block-exp data`` against a real HTTP server on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from exp.data import app
from exp.public_set import PublicSets
from exp.workload import SOURCES

TEXT = b"prompt_tokens,output_tokens\n5,6\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "trace.csv").write_bytes(TEXT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def known(folder: Path, url: str, content: bytes = TEXT) -> Path:
    path = folder / "sets.yaml"
    one = {
        "url": url,
        "file": "own/trace.csv",
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": "MIT",
        "about": "x",
    }
    path.write_text(yaml.safe_dump({"sets": {"own": one}}))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_set_is_fetched_once_and_listed(site: str, tmp_path: Path) -> None:
    sets = known(tmp_path, f"{site}/trace.csv")
    done = call("fetch", "own", "--out", tmp_path / "data", "--sets", sets)
    path = tmp_path / "data" / "own" / "trace.csv"
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1]) == {"own": str(path)}
    assert path.read_bytes() == TEXT
    path.write_bytes(b"left alone")
    assert call("fetch", "--out", tmp_path / "data", "--sets", sets).exit_code == 0
    assert path.read_bytes() == b"left alone"
    listed = call("list", "--data", tmp_path, "--out", tmp_path / "data", "--sets", sets)
    assert json.loads(listed.stdout.splitlines()[-1]) == {"own": str(path)}


@pytest.mark.parametrize(
    ("page", "content", "said"),
    [("trace.csv", b"other", "sha256 is"), ("gone.csv", TEXT, "put it at")],
)
def test_what_cannot_be_had_leaves_nothing_and_tells_the_remedy(
    site: str, tmp_path: Path, page: str, content: bytes, said: str
) -> None:
    sets = known(tmp_path, f"{site}/{page}", content)
    done = call("fetch", "--out", tmp_path / "data", "--sets", sets)
    assert done.exit_code == 1
    assert said in done.output
    assert "--workload generated" in done.output
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


def test_what_is_shipped_is_where_workloads_look_for_it() -> None:
    for name, one in PublicSets.load().sets.items():
        assert one.file == SOURCES[name].file
        assert one.url.startswith("https://")
