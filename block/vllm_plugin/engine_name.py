"""What an engine computes and on what, in one line: engines of which it differs take other times."""

from __future__ import annotations

from pathlib import Path

import vllm
from vllm.config import VllmConfig
from vllm.platforms import current_platform


def engine_name(config: VllmConfig) -> str:
    """Model, number formats, parallel sizes, device and version; what limits the scheduler is not in it."""
    model, parallel = config.model_config, config.parallel_config
    facts = (
        Path(str(model.model)).name,
        str(model.dtype).removeprefix("torch."),
        f"cache {config.cache_config.cache_dtype}",
        f"quantization {model.quantization or 'none'}",
        f"tp {parallel.tensor_parallel_size}",
        "eager" if model.enforce_eager else "compiled",
        f"on {current_platform.get_device_name()}",
        f"vllm {vllm.__version__}",
    )
    return ", ".join(facts)
