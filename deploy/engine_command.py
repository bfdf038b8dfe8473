"""The command line of one vLLM server. Knows vLLM's flags; starts nothing and reads no file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from block.config import EngineSettings

_PLUGIN = "block.vllm_plugin"
_EXECUTOR = f"{_PLUGIN}.emulated_executor.EmulatedExecutor"
_SCHEDULERS = {True: f"{_PLUGIN}.scheduler.AsyncFeedScheduler", False: f"{_PLUGIN}.scheduler.FeedScheduler"}


def engine_argv(engine: EngineSettings, *, host: str, port: int, feed: str) -> tuple[str, ...]:
    """Arguments that start vLLM's OpenAI server with the state feed on ``feed``.

    The paths in ``engine`` must be absolute already: the server may run elsewhere.
    """
    argv = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(engine.model), "--served-model-name", engine.served_model_name),
        *("--host", host, "--port", str(port)),
        *("--block-size", str(engine.block_size)),
        *("--max-num-seqs", str(engine.max_num_seqs)),
        *("--max-num-batched-tokens", str(engine.max_num_batched_tokens)),
        *("--max-model-len", str(engine.max_model_len)),
        *("--scheduling-policy", engine.policy),
        _switch("enable-prefix-caching", engine.prefix_caching),
        _switch("async-scheduling", engine.async_scheduling),
        *("--scheduler-cls", _SCHEDULERS[engine.async_scheduling]),
        *("--additional-config", json.dumps(_plugin_settings(engine, feed))),
        *("--enforce-eager", "--disable-uvicorn-access-log"),
    ]
    if engine.num_gpu_blocks is not None:
        argv += ["--num-gpu-blocks-override", str(engine.num_gpu_blocks)]
    if engine.executor == "emulated":
        argv += ["--load-format", "dummy", "--distributed-executor-backend", _EXECUTOR]
    return (*argv, *engine.extra_flags)


def engine_environment(engine: EngineSettings) -> dict[str, str]:
    """Variables for the server, on top of the launcher's own."""
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if engine.executor == "emulated":
        # Nothing is computed, so threads beyond one would only compete with the other servers.
        environment["OMP_NUM_THREADS"] = "1"
    return environment | engine.environment


def missing_model(model: Path) -> str:
    """Why ``model`` cannot be served, with the command that makes it; empty when it can."""
    if (model / "config.json").is_file():
        return ""
    return (
        f"no model in {model} (engine.model): make it with "
        f"`python -m exp.local_model {model.name} --out {model}`, or name another folder"
    )


def _plugin_settings(engine: EngineSettings, feed: str) -> dict[str, object]:
    settings: dict[str, object] = {"feed": {"address": feed}}
    if engine.executor == "emulated":
        settings["emulation"] = {"latency": str(engine.latency)}
    return {"block": settings}


def _switch(flag: str, on: bool) -> str:
    return f"--{flag}" if on else f"--no-{flag}"
