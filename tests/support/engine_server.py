"""A real vLLM server in a process group of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LATENCY = ROOT / "config" / "latency" / "a30-llama-2-7b.yaml"
READY_WITHIN_S = 180.0
LIMITS = {
    "--block-size": "16",
    "--max-num-seqs": "48",
    "--max-num-batched-tokens": "512",
    "--max-model-len": "2048",
}


@dataclass(frozen=True)
class EngineServer:
    """A server that answers."""

    url: str
    """Without /v1."""
    model: str
    feed: str
    """Address of its state feed."""
    log: Path
    process_group: int


@contextmanager
def emulated_server(model: Path, **flags: str) -> Iterator[EngineServer]:
    """vLLM with the emulated executor and the state feed; ``flags`` such as ``max_num_seqs="8"``."""
    emulation = {"latency": str(LATENCY)}
    emulated = {
        "--load-format": "dummy",
        "--distributed-executor-backend": "block.vllm_plugin.emulated_executor.EmulatedExecutor",
        "--num-gpu-blocks-override": "1052",
    }
    with running_server(model, {"emulation": emulation}, {**emulated, **_dashed(flags)}) as server:
        yield server


@contextmanager
def running_server(model: Path, settings: dict[str, object], flags: dict[str, str]) -> Iterator[EngineServer]:
    """vLLM's OpenAI server with the state feed; killed with all its children at the end."""
    with tempfile.TemporaryDirectory(prefix="block-", ignore_cleanup_errors=True) as folder:
        feed, log, port = f"ipc://{folder}/feed", Path(folder) / "server.log", free_port()
        config = json.dumps({"block": {"feed": {"address": feed}, **settings}})
        command = _command(model, port, {**LIMITS, "--additional-config": config, **flags})
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=_environment(), stdout=output, stderr=output, start_new_session=True
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, log)
            yield EngineServer(url, model.name, feed, log, process.pid)
        finally:
            _kill_group(process)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(model: Path, port: int, flags: dict[str, str]) -> list[str]:
    scheduler = {"--scheduler-cls": "block.vllm_plugin.scheduler.AsyncFeedScheduler"}
    place = {"--host": "127.0.0.1", "--port": str(port), "--served-model-name": model.name}
    pairs = [item for pair in {**scheduler, **place, **flags}.items() for item in pair if item]
    server = "vllm.entrypoints.openai.api_server"
    return [sys.executable, "-m", server, "--model", str(model), "--enforce-eager", *pairs]


def _dashed(flags: dict[str, str]) -> dict[str, str]:
    return {f"--{name.replace('_', '-')}": value for name, value in flags.items()}


def _environment() -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return {**os.environ, **offline, "PYTHONPATH": str(ROOT)}


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    tail = log.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"vLLM did not become ready (exit status {process.poll()}); its log ends:\n{tail}")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(timeout=15)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
