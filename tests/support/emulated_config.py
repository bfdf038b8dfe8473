"""vLLM configurations with the emulated executor, for tests that make executors themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine_server import LATENCY
from vllm.engine.arg_utils import EngineArgs

BACKEND = "block.vllm_plugin.emulated_executor.EmulatedExecutor"
EMULATION = {"latency": str(LATENCY)}


def engine_config(model: Path, emulation: dict[str, Any] | None = EMULATION, **flags: Any) -> Any:
    block = {} if emulation is None else {"emulation": emulation}
    return EngineArgs(
        model=str(model),
        load_format="dummy",
        distributed_executor_backend=BACKEND,
        additional_config={"block": block},
        block_size=16,
        max_model_len=1024,
        **flags,
    ).create_engine_config()
