"""What a vLLM configuration is in our terms: what was recorded, what would use a recording, what it holds."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import vllm
from vllm.config import VllmConfig
from vllm.platforms import current_platform

from block.latency.dimensions import ModelDimensions
from block.latency.gpu_memory import MemoryUse
from block.latency.pack import PackHeader, PackUse
from block.types import EngineLimits


def pack_header(config: VllmConfig, kv_blocks: int, executor: str, notes: str = "") -> PackHeader:
    """Describe an engine that has ``kv_blocks`` blocks, the null block included."""
    use = pack_use(config, kv_blocks)
    assert use.limits is not None
    return PackHeader(
        model=use.model,
        limits=use.limits,
        kv_blocks=kv_blocks,
        model_name=Path(str(config.model_config.model)).name,
        dtype=use.dtype,
        cache_dtype=use.cache_dtype,
        tensor_parallel=use.tensor_parallel,
        pipeline_parallel=use.pipeline_parallel,
        flags=_flags(config),
        vllm_version=use.vllm_version,
        device=_device(),
        executor=executor,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=notes,
    )


def pack_use(config: VllmConfig, kv_blocks: int) -> PackUse:
    """What a pack is asked about; ``kv_blocks`` 0 if not known yet."""
    model, parallel = config.model_config, config.parallel_config
    return PackUse(
        model=model_dimensions(model),
        block_size=config.cache_config.block_size,
        dtype=str(model.dtype).removeprefix("torch."),
        cache_dtype=str(config.cache_config.cache_dtype),
        quantization=str(model.quantization or "none"),
        tensor_parallel=parallel.tensor_parallel_size,
        pipeline_parallel=parallel.pipeline_parallel_size,
        vllm_version=vllm.__version__.partition("+")[0],
        limits=_limits(config, kv_blocks),
    )


def memory_use(config: VllmConfig) -> MemoryUse:
    """What takes up a device's memory beside the KV cache."""
    parallel, model = config.parallel_config, config.model_config
    return MemoryUse(
        model=model_dimensions(model),
        max_num_seqs=config.scheduler_config.max_num_seqs,
        max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
        utilization=config.cache_config.gpu_memory_utilization,
        value_bytes=int(model.dtype.itemsize),
        tied_embeddings=bool(getattr(model.hf_text_config, "tie_word_embeddings", False)),
        devices=parallel.tensor_parallel_size * parallel.pipeline_parallel_size,
    )


def model_dimensions(model: Any) -> ModelDimensions:
    """Of vLLM's ``ModelConfig``; a size that this family does not state is 0."""
    text = model.hf_text_config
    return ModelDimensions(
        layers=model.get_total_num_hidden_layers(),
        hidden=model.get_hidden_size(),
        heads=int(getattr(text, "num_attention_heads", 0)),
        kv_heads=model.get_total_num_kv_heads(),
        head_size=model.get_head_size(),
        intermediate=int(getattr(text, "intermediate_size", 0) or 0),
        vocabulary=model.get_vocab_size(),
    )


def _limits(config: VllmConfig, kv_blocks: int) -> EngineLimits:
    scheduler, cache = config.scheduler_config, config.cache_config
    return EngineLimits(
        block_size=cache.block_size,
        total_blocks=max(0, kv_blocks - 1),
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
        max_model_len=config.model_config.max_model_len,
        long_prefill_token_threshold=scheduler.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=scheduler.long_prefill_token_threshold_adaptive,
        chunked_prefill=scheduler.enable_chunked_prefill,
        prefix_caching=bool(cache.enable_prefix_caching),
        policy=scheduler.policy,
        async_scheduling=config.max_concurrent_batches > 1,
        reserve_full_prompt=scheduler.scheduler_reserve_full_isl,
    )


def _flags(config: VllmConfig) -> dict[str, str]:
    return {
        "enforce_eager": str(bool(config.model_config.enforce_eager)),
        "quantization": str(config.model_config.quantization or ""),
    }


def _device() -> str:
    name = str(current_platform.get_device_name())
    return f"{name} ({_processor()})" if name == "cpu" else name


def _processor() -> str:
    """The CPU's model as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.machine()
