"""What bounds a vLLM scheduler, in terms of the EngineState contract, or why the contract cannot say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm.v1.kv_cache_interface import is_full_attention_spec

from block.errors import UnsupportedError
from block.types import EngineLimits


def engine_limits(scheduler: Any) -> EngineLimits:
    """Read a vLLM ``Scheduler``; raises UnsupportedError naming every feature that the contract lacks."""
    reasons = list(_unsupported(scheduler))
    if reasons:
        raise UnsupportedError(f"the engine state cannot be published: {'; '.join(reasons)}")
    config = scheduler.scheduler_config
    return EngineLimits(
        block_size=scheduler.block_size,
        total_blocks=scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1,
        max_num_seqs=scheduler.max_num_running_reqs,
        max_num_batched_tokens=min(scheduler.max_num_scheduled_tokens, config.max_num_batched_tokens),
        max_model_len=scheduler.max_model_len,
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        long_prefill_token_threshold_adaptive=config.long_prefill_token_threshold_adaptive,
        chunked_prefill=config.enable_chunked_prefill,
        prefix_caching=bool(scheduler.cache_config.enable_prefix_caching),
        policy=scheduler.policy.value,
        # Not the configured wish: some platforms turn the overlap off.
        async_scheduling=scheduler.vllm_config.max_concurrent_batches > 1,
        watermark_blocks=scheduler.kv_cache_manager.watermark_blocks,
        reserve_full_prompt=scheduler.scheduler_reserve_full_isl,
    )


def _unsupported(scheduler: Any) -> Iterator[str]:
    yield from _unsupported_cache(scheduler)
    config, parallel = scheduler.scheduler_config, scheduler.parallel_config
    features = {
        "speculative decoding": scheduler.vllm_config.speculative_config is not None,
        "LoRA": scheduler.lora_config is not None,
        "multimodal inputs": scheduler.max_num_encoder_input_tokens > 0,
        "pooling and diffusion models": scheduler.num_sampled_tokens_per_step != 1,
        "prefill_schedule_interval other than 1": config.prefill_schedule_interval != 1,
        "max_num_active_seqs other than max_num_seqs": (
            scheduler.max_num_active_reqs != scheduler.max_num_running_reqs
        ),
        "pipeline parallelism": parallel.pipeline_parallel_size != 1,
        "data parallelism in one server (start one per replica)": parallel.data_parallel_size != 1,
    }
    yield from (feature for feature, used in features.items() if used)


def _unsupported_cache(scheduler: Any) -> Iterator[str]:
    groups = scheduler.kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        yield f"{len(groups)} KV cache groups (one is supported)"
    elif not is_full_attention_spec(groups[0].kv_cache_spec):
        yield f"KV cache of {type(groups[0].kv_cache_spec).__name__} (full attention is supported)"
    if scheduler.connector is not None or scheduler.ec_connector is not None:
        yield "KV or encoder-cache connectors"
