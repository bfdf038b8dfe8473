"""The router benchmarks, small: they measure what they say, and count what fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import uvloop
from raw_http import Wire, scripted_server

from block.errors import ConfigError
from exp import mock_engine
from exp.cli import main
from exp.router_load import chat_request, load
from exp.router_process import RouterCommand


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    return int(caught.value.code or 0)


def test_the_router_benchmark_compares_with_a_peer_and_ends_with_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The peer is this project's own router under another name, so that the ratios must be near one."""
    script = tmp_path / "peer"
    config = '{"instances": [{"name": "a", "url": "%s"}], "port": %s, "settings": {"policy": "random"}}'
    script.write_text(
        "import sys, tempfile\n"
        "from global_scheduler.cli import main\n"
        "file = tempfile.NamedTemporaryFile('w', suffix='.yaml')\n"
        f"file.write({config!r} % (sys.argv[2], sys.argv[1]))\n"
        "file.flush()\n"
        "sys.argv[1:] = ['--config', file.name]\n"
        "main()\n"
    )
    peer = f"{sys.executable} {script} {{port}} {{urls}}"
    assert run("router", "--rounds", "1", "--requests", "400", "--streams", "32", "--peer", peer) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(summary) == [
        "peer",
        "cpu_per_request_ratio",
        "cpu_per_chunk_ratio",
        "added_p50_ms",
        "added_ttft_ms",
        "errors",
    ]
    assert summary["errors"] == 0
    assert summary["peer"] == Path(sys.executable).name
    assert 0.3 < summary["cpu_per_request_ratio"] < 3
    assert 0.3 < summary["cpu_per_chunk_ratio"] < 3


def test_a_peer_that_is_not_there_or_not_told_where_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("router", "--peer", "no-such-router {urls} {port}", "--rounds", "1", "--requests", "100") == 1
    assert "no-such-router: not found" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="urls"):
        RouterCommand.peer("router --port {port}")


def test_a_peer_may_be_told_by_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("model_list:\n- {model: mock, base: '{url}/v1'}\nport: {port}\n")
    command = RouterCommand.peer(f"{sys.executable} --config {{config:{file}}} --port {{port}}")
    _, flag, written, *rest = command.argv(["http://a:1", "http://b:2"], 8000, tmp_path)
    assert (flag, rest) == ("--config", ["--port", "8000"])
    each = [f"- {{model: mock, base: '{url}/v1'}}" for url in ("http://a:1", "http://b:2")]
    assert Path(written).read_text().splitlines() == ["model_list:", *each, "port: 8000"]
    with pytest.raises(ConfigError, match="nowhere"):
        RouterCommand.peer("python {config:nowhere.yaml} {port} {urls}")
    file.write_text("model_list: []")
    with pytest.raises(ConfigError, match="urls"):
        RouterCommand.peer(f"python {{config:{file}}} --port {{port}}")


@pytest.mark.parametrize(("word", "errors"), [("word", 0), ("other", 3)])
async def test_an_answer_that_a_router_has_written_anew_must_say_the_same(word: str, errors: int) -> None:
    body = json.dumps({"choices": [{"message": {"content": word}}], "usage": {}}).encode()

    async def answer(wire: Wire) -> None:
        while True:
            await wire.until(b'"stream": false}')
            await wire.send(mock_engine.answer(body))

    async with scripted_server(answer) as (host, port):
        url = f"http://{host}:{port}"
        tally = await load(url, chat_request(100, stream=False), requests=3, connections=1)
    assert (len(tally.e2e_s), len(tally.errors)) == (3 - errors, errors)


def test_the_stress_run_counts_errors_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = (
        "--streams",
        "60",
        "--connections",
        "4",
        "--prompt-kb",
        "50",
        "--requests",
        "1000",
        "--chunks",
        "5",
    )
    assert run("stress", *sizes) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["errors"] == 0
    assert 20 < result["rss_mb_after_1000"] < 500


def test_the_load_counts_what_goes_wrong() -> None:
    process, url = mock_engine.start("mock", 4, 0.01)
    try:
        request = chat_request(100, stream=True)
        tally = uvloop.run(load(url, request, requests=20, connections=4))
        assert (len(tally.e2e_s), tally.errors) == (20, [])
        assert 0 < tally.ttft_ms(50) < tally.e2e_ms(50)
    finally:
        process.terminate()
        process.join()
    assert len(uvloop.run(load(url, request, requests=5, connections=2)).errors) == 5


def test_the_decision_benchmark_asks_real_predictors_and_ends_with_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--predictors", "2", "--qps", "40", "--seconds", "1", "--tokens", "8", "--others", "4")
    assert run("decision", *arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    measured = ["predictors", "qps", "p50_ms", "p99_ms", "unpredicted", "errors"]
    assert list(summary) == [*measured, "cpu_ms_per_request", "other_cores"]
    assert all(ms > 0 for ms in summary["cpu_ms_per_request"].values())
    assert (summary["predictors"], summary["qps"], summary["errors"]) == (2, 40.0, 0)
    assert summary["unpredicted"] < 20
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]


def test_predictors_may_share_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Each still answers for its own instance: the router refuses any other's answer."""
    arguments = ("--predictors", "3", "--processes", "2", "--qps", "40", "--seconds", "1", "--tokens", "8")
    assert run("decision", *arguments, "--others", "4") == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["predictors"], summary["predictor_processes"]) == (3, 2)
    assert summary["errors"] == 0
    assert summary["unpredicted"] < 20
