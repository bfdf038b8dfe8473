"""Cells against a server that somebody else has started: here one that answers like a router."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from block.errors import ConfigError, InstanceError
from exp.experiment.backend import Surroundings, backend_kind
from exp.experiment.cell import Traffic
from exp.experiment.given_cluster import GivenCluster
from exp.experiment.spec import ExperimentSpec, PolicyVariant
from exp.experiment.table import SCHEMA


class Handler(BaseHTTPRequestHandler):
    """Answers at once; prompts are counted by words."""

    protocol_version = "HTTP/1.1"
    policies: list[str] = []  # noqa: RUF012 - of this test only

    def do_POST(self) -> None:
        body = msgspec.json.decode(self.rfile.read(int(self.headers["content-length"])))
        self.policies.append(self.headers["x-block-policy"])
        usage = {"prompt_tokens": len(body["prompt"].split()), "completion_tokens": body["max_tokens"]}
        event = msgspec.json.encode({"choices": [{"text": "x"}], "usage": usage})
        answer = b"data: " + event + b"\n\ndata: [DONE]\n\n"
        self.send_response(200)
        self.send_header("x-block-instance", "instance-1")
        self.send_header("x-block-decision-ms", "1.5")
        self.send_header("content-length", str(len(answer)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def spec(model: Path, **policies: PolicyVariant) -> ExperimentSpec:
    return ExperimentSpec(
        title="test",
        set={"engine.model": str(model)},
        requests=10,
        policies=policies or {"least_request": PolicyVariant()},
        workloads={"generated": Traffic(name="generated", most_tokens=400)},
        rates_per_s=(50.0,),
    )


def backend(url: str) -> Any:
    return backend_kind("cluster").load()(Surroundings(Path("nowhere"), url))


def test_requests_are_sent_under_the_cells_policy(url: str, llama_model: Path) -> None:
    Handler.policies.clear()
    [cell] = spec(llama_model).cells()
    table = backend(url).run(cell)
    assert table.schema == SCHEMA
    assert set(table["error"].to_pylist()) == {""}
    assert set(table["decision_s"].to_pylist()) == {0.0015}
    assert set(table["instance"].to_pylist()) == {"instance-1"}
    assert Handler.policies == ["least_request"] * 10


def test_what_cannot_be_is_told(url: str, llama_model: Path) -> None:
    with pytest.raises(ConfigError, match="--url: missing"):
        GivenCluster(Surroundings(Path("nowhere")))
    [cell] = spec(llama_model, block=PolicyVariant(lengths="guess")).cells()
    with pytest.raises(ConfigError, match="policy block: lengths = guess: only --backend simulated"):
        backend(url).run(cell)
    [cell] = spec(llama_model).cells()
    with pytest.raises(InstanceError, match="not one of 10 requests was answered: no connection"):
        backend("http://127.0.0.1:9/v1").run(cell)
