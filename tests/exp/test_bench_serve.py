"""``block-exp bench serve`` whole, against a mock engine; and (slow) beside vLLM's own program."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from block.errors import InstanceError
from exp import mock_engine
from exp.bench import app
from exp.cores import Cores
from exp.free_port import free_port
from exp.prompt import PromptWriter
from exp.router_process import RouterCommand
from exp.router_process import running as running_router
from exp.trial_engine import TrialEngine
from exp.trial_server import running

CHUNKS, TICK_S = 20, 0.05
ROOT = Path(__file__).resolve().parents[2]
ANY_CORE = Cores(None, None)


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    process, url = mock_engine.start("mock", CHUNKS, TICK_S)
    yield f"{url}/v1"
    process.terminate()
    process.join()


def lengths(folder: Path, count: int, gap_s: float, prompt: int = 8, output: int = CHUNKS) -> str:
    path = folder / "lengths.csv"
    rows = [f"{i * gap_s},{prompt},{output}" for i in range(count)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))
    return f"lengths:{path}"


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


def vllms_head() -> set[str]:
    """What vLLM's program says of a run beside its measures, read out of the installed one."""
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = (Path(spec.submodule_search_locations[0]) / "benchmarks/serve.py").read_text()
    found = {name for name in re.findall(r'result_json\["(\w+)"\] = ', source) if "ramp_up" not in name}
    assert len(found) > 7
    return found


def test_many_streams_are_carried_at_once_and_every_form_is_written(
    mock: str, tmp_path: Path, tokenizer_file: Path
) -> None:
    done = call(
        *("--url", mock, "--workload", lengths(tmp_path, 600, 0.001), "--requests", 600, "--warm-up", 2),
        *("--tokenizer", tokenizer_file, "--goodput", "ttft:60000", "--out", tmp_path / "r.json"),
        *("--out", tmp_path / "r.csv", "--out", tmp_path / "r.npz"),
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["completed"], result["failed"]) == (600, 0)
    assert result["total_output_tokens"] == 600 * CHUNKS
    assert result["model_id"] == mock_engine.MODEL
    assert vllms_head() <= set(result)
    # All come within 0.6 s and each takes at least 0.9 s, so most of them are under way together.
    assert result["max_concurrent_requests"] >= 500
    assert result["request_goodput"] == pytest.approx(result["request_throughput"])
    # A stream gets an event at every tick, 50 ms apart.
    assert result["mean_itl_ms"] == pytest.approx(50, rel=0.25)
    assert json.loads((tmp_path / "r.json").read_text()) == result
    with (tmp_path / "r.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 600


def test_through_the_router_its_headers_are_read(mock: str, tmp_path: Path, tokenizer_file: Path) -> None:
    engine = mock.removesuffix("/v1")
    with running_router(RouterCommand.ours("round_robin"), [engine, engine], tmp_path) as router:
        done = call(
            *("--url", f"{router.url}/v1", "--workload", lengths(tmp_path, 40, 0.01), "--requests", 40),
            *("--tokenizer", tokenizer_file, "--endpoint", "chat", "--policy", "random", "--detailed"),
            *("--out", tmp_path / "r.json"),
        )
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["completed"] == 40
    assert set(result["requests_per_instance"]) == {"mock-0", "mock-1"}
    assert 0 < result["mean_scheduling_overhead_ms"] < 50
    assert sum(len(gaps) for gaps in result["itls"]) == 40 * (CHUNKS - 1)


def test_failures_are_shown_and_make_the_exit_status_1(
    mock: str, tmp_path: Path, tokenizer_file: Path
) -> None:
    workload = lengths(tmp_path, 2, 0.01, output=CHUNKS + 1)
    done = call(
        "--url", mock, "--workload", workload, "--requests", 2, "--warm-up", 0, "--tokenizer", tokenizer_file
    )
    assert done.exit_code == 1
    assert "got 20 tokens, 21 were asked for" in done.output


def test_a_server_that_is_not_there_is_told(tmp_path: Path, tokenizer_file: Path) -> None:
    done = call(
        *("--url", "http://127.0.0.1:9/v1", "--workload", lengths(tmp_path, 1, 1.0), "--requests", 1),
        *("--tokenizer", tokenizer_file),
    )
    assert isinstance(done.exception, InstanceError)
    assert "check --url, or give --model" in str(done.exception)


THEIRS = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
REQUESTS, PROMPT, OUTPUT, RATE = 60, 64, 48, 4.0


@pytest.mark.slow
@pytest.mark.engine
async def test_it_agrees_with_vllms_own_program_on_the_same_server(llama_model: Path, tmp_path: Path) -> None:
    """Evenly spaced arrivals, one length: both send the same but for the words."""
    engine = TrialEngine(llama_model, 1024, 48, 512, 16, 1053)
    settings = {"emulation": {"latency": str(ROOT / "config/latency/a30-llama-2-7b.yaml")}}
    plan = engine.plan("emulated", free_port(), tmp_path / "engine.log", settings)
    writer = PromptWriter(llama_model / "tokenizer.json")
    async with running(plan, engine.served_name, writer, cores=ANY_CORE) as server:
        await server.warm_up(1024)
        # In turn, twice each: a machine has slow and fast minutes.
        runs = [
            await asyncio.to_thread(run, server.port, llama_model, tmp_path) for run in (ours, theirs) * 2
        ]
    for measure in ("ttft", "tpot", "itl", "e2el"):
        mine, vllms = (sum(run[f"mean_{measure}_ms"] for run in runs[first::2]) / 2 for first in (0, 1))
        print(f"{measure}: ours {mine:.2f} ms, vLLM's {vllms:.2f} ms")
        assert mine == pytest.approx(vllms, rel=0.05)
    assert runs[0]["total_output_tokens"] == runs[1]["total_output_tokens"] == REQUESTS * OUTPUT


def ours(port: int, _: Path, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "exp.cli", "bench", "serve", "--url", f"http://127.0.0.1:{port}/v1"),
            *("--workload", lengths(folder, REQUESTS, 1 / RATE, PROMPT, OUTPUT), "--requests", str(REQUESTS)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def theirs(port: int, model: Path, folder: Path) -> dict[str, Any]:
    subprocess.run(
        [
            *(sys.executable, "-c", THEIRS, "--base-url", f"http://127.0.0.1:{port}"),
            *("--model", model.name, "--tokenizer", str(model), "--dataset-name", "random"),
            *("--random-input-len", str(PROMPT), "--random-output-len", str(OUTPUT)),
            *("--num-prompts", str(REQUESTS), "--request-rate", str(RATE), "--burstiness", "1e6"),
            *("--ignore-eos", "--percentile-metrics", "ttft,tpot,itl,e2el", "--save-result"),
            *("--result-dir", str(folder), "--result-filename", "theirs.json"),
        ],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads((folder / "theirs.json").read_text())
    return result
