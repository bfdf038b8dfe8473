"""The vLLM server that an experiment measures: its limits, its flags, and which executor it has.

Knows vLLM's flags; starts nothing. Without router and state feed, with vLLM's own scheduler.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.plan import ProcessPlan

Executor = Literal["real", "recording", "recording-emulated", "emulated"]

_EXECUTORS: dict[Executor, str] = {
    # By its full name, as vLLM's CPU platform would turn "uni" into "mp": a process more, for two cores.
    "real": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
    "recording": "block.vllm_plugin.recorder.RecordingExecutor",
    "recording-emulated": "block.vllm_plugin.recorder.RecordingEmulatedExecutor",
    "emulated": "block.vllm_plugin.emulated_executor.EmulatedExecutor",
}


@dataclass(frozen=True, slots=True)
class TrialEngine:
    """One engine; names follow vLLM's flags. The defaults suit a tiny model on one core."""

    model: Path
    max_model_len: int = 1024
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 256
    block_size: int = 32
    num_gpu_blocks: int = 129
    """The null block included. Few enough that long contexts run out of memory."""

    def plan(
        self,
        executor: Executor,
        port: int,
        log: Path,
        settings: dict[str, Any] | None = None,
        name: str | None = None,
    ) -> ProcessPlan:
        """How to start it; ``settings`` is the ``block`` entry of ``--additional-config``."""
        return ProcessPlan(
            name=name or f"{executor} engine",
            role="engine",
            argv=self._argv(executor, port, settings),
            port=port,
            health_url=f"http://127.0.0.1:{port}/health",
            log=log,
            env=ENVIRONMENT,
        )

    @property
    def served_name(self) -> str:
        """What clients call the model."""
        return self.model.name

    def _argv(self, executor: Executor, port: int, settings: dict[str, Any] | None) -> tuple[str, ...]:
        argv = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self.model), "--served-model-name", self.served_name),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--distributed-executor-backend", _EXECUTORS[executor]),
            *("--max-model-len", str(self.max_model_len)),
            *("--max-num-seqs", str(self.max_num_seqs)),
            *("--max-num-batched-tokens", str(self.max_num_batched_tokens)),
            *("--block-size", str(self.block_size)),
            *("--num-gpu-blocks-override", str(self.num_gpu_blocks)),
            *("--no-enable-prefix-caching", "--enforce-eager", "--disable-uvicorn-access-log"),
        ]
        if executor.endswith("emulated"):
            argv += ["--load-format", "dummy"]
        if settings is not None:
            argv += ["--additional-config", json.dumps({"block": settings})]
        return tuple(argv)


ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # One thread computes; the other core is the front end's and the client's.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
