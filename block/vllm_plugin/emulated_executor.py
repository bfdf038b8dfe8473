"""A vLLM executor whose forward pass is a wait: ``--distributed-executor-backend`` takes this class by name.

Everything around the forward pass stays vLLM's own: API, tokenizer, scheduler, KV-cache manager, output
path. No weights are loaded. Parallel sizes only divide the KV heads; one emulated device stands for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property
from typing import Any

from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

from block.config import load_config
from block.errors import ConfigError
from block.latency.gpu_memory import kv_cache_bytes
from block.latency.roofline import Gpu
from block.lengths import LengthDistribution
from block.vllm_plugin.emulated_model import EmulatedModel, ScheduledRequest
from block.vllm_plugin.emulation_log import EmulationLog
from block.vllm_plugin.pack_header import memory_use
from block.vllm_plugin.settings import EmulationSettings, plugin_settings
from block.vllm_plugin.step_timer import StepTimer
from block.vllm_plugin.step_times import load_step_times
from block.vllm_plugin.vocabulary import Vocabulary

logger = init_logger("vllm.block.emulated_executor")


class EmulatedExecutor(Executor):
    """Waits as long as the step-latency model says and emits synthetic tokens."""

    supports_pp = True

    def _init_executor(self) -> None:
        settings = plugin_settings(self.vllm_config.additional_config).emulation
        if settings is None:
            raise ConfigError(
                "--additional-config: block.emulation: missing; give at least its 'latency' file"
            )
        self._settings: EmulationSettings = settings
        _restore_async_scheduling(self.vllm_config)
        self._overlaps = self.vllm_config.max_concurrent_batches > 1
        self._step_times = load_step_times(settings, self.vllm_config)
        lengths = LengthDistribution(settings.output_lengths) if settings.output_lengths else None
        self._model = EmulatedModel(_vocabulary(self.vllm_config), settings.seed or 0, lengths)
        self._timer: StepTimer[ModelRunnerOutput] = StepTimer()
        self._log = EmulationLog(self._step_times, self._timer)
        self._submitted: tuple[list[ScheduledRequest], float] | None = None
        logger.info("Emulating step times of %s", self._step_times.name)

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """Steps overlap with scheduling, as on a GPU."""
        return True

    @cached_property
    def supported_tasks(self) -> tuple[str, ...]:
        """Text generation only."""
        return ("generate",)

    def get_kv_cache_specs(self) -> list[dict[str, KVCacheSpec]]:
        """Full attention in every layer of the model's config."""
        model, cache, parallel = self.model_config, self.cache_config, self.parallel_config
        spec = FullAttentionSpec(
            block_size=cache.block_size,
            num_kv_heads=model.get_num_kv_heads(parallel),
            head_size=model.get_head_size(),
            dtype=kv_cache_dtype_str_to_dtype(cache.cache_dtype, model),
        )
        return [{f"layers.{index}": spec for index in range(model.get_total_num_hidden_layers())}]

    def determine_available_memory(self) -> list[int]:
        """Bytes for the KV cache; vLLM applies ``--num-gpu-blocks-override`` on top of it."""
        (layers,) = self.get_kv_cache_specs()
        block_bytes = sum(spec.page_size_bytes for spec in layers.values())
        override = self.cache_config.num_gpu_blocks_override or self._settings.kv_blocks
        blocks = override or self._step_times.kv_blocks
        return [blocks * block_bytes if blocks else self._gpus_kv_bytes()]

    def _gpus_kv_bytes(self) -> int:
        gpu = load_config(self._settings.gpu, Gpu) if self._settings.gpu else self._step_times.gpu
        if gpu is None:
            raise ConfigError(
                "KV cache size: unknown without a GPU or a pack; give --num-gpu-blocks-override,"
                " or block.emulation.kv_blocks or block.emulation.gpu in --additional-config"
            )
        return kv_cache_bytes(gpu, memory_use(self.vllm_config))

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        """Any would do: nothing is stored."""
        return [["LBNHC"]]

    def set_kv_cache_layout(self, layout_name: str) -> None:
        """Nothing is stored."""

    def initialize_from_config(self, kv_cache_configs: list[KVCacheConfig]) -> None:
        """Nothing is stored."""

    def compile_or_warm_up_model(self) -> None:
        """There is nothing to compile."""

    def execute_model(
        self, scheduler_output: SchedulerOutput, non_block: bool = False
    ) -> ModelRunnerOutput | Future[ModelRunnerOutput | None] | None:
        """Start a step on the emulated device; its tokens come from ``sample_tokens``.

        A batch without tokens only carries news of finished requests and takes no time.
        """
        started_s = time.monotonic()
        scheduled = self._model.admit(scheduler_output)
        if not scheduled:
            self._log.idle()
            return _resolved(EMPTY_MODEL_RUNNER_OUTPUT) if non_block else EMPTY_MODEL_RUNNER_OUTPUT
        shape = self._model.shape(scheduled)
        latency_s, host_s = self._step_times.seconds(shape), None
        # A request that ran before runs again: the engine had work since the last step's end.
        if scheduler_output.scheduled_cached_reqs.req_ids and not self._overlaps:
            host_s = self._step_times.host_seconds(shape)
        # What emulating itself takes is part of the step, not added to it.
        self._submitted = scheduled, self._timer.reserve(latency_s, started_s, host_s)
        self._log.step(shape)
        return _resolved(None) if non_block else None

    def sample_tokens(
        self, grammar_output: GrammarOutput | None, non_block: bool = False
    ) -> ModelRunnerOutput | Future[ModelRunnerOutput] | None:
        """The submitted step's tokens, at its end: the future stays pending until then."""
        if self._submitted is None:
            return None
        (scheduled, deadline_s), self._submitted = self._submitted, None
        output = self._model.sample(scheduled, grammar_output)
        if non_block:
            return self._timer.resolve_at(deadline_s, output)
        self._timer.wait_until(deadline_s)
        return output

    def collective_rpc(self, method: str | Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """There are no workers to call: one answer of None, at once, whatever is asked."""
        logger.debug("No worker to run %s with %s", method, arguments)
        return _resolved([None]) if options.get("non_block") else [None]

    def check_health(self) -> None:
        """A wait does not fall ill."""

    def shutdown(self) -> None:
        """Stop the device and say how exactly it kept time."""
        self._timer.close()
        self._log.tell()


def _vocabulary(config: VllmConfig) -> Vocabulary:
    model = config.model_config
    tokenizer = cached_tokenizer_from_config(model)
    eos = None if tokenizer is None else tokenizer.eos_token_id
    return Vocabulary.from_tokenizer(tokenizer, model.get_vocab_size(), eos)


def _restore_async_scheduling(config: VllmConfig) -> None:
    """Undo what vLLM's CPU platform decides for its own forward pass, which does not run here.

    It turns asynchronous scheduling off; whoever names an asynchronous scheduler class wants the
    overlap of a GPU. The engine core reads this after it has made the executor.
    """
    if issubclass(config.scheduler_config.get_scheduler_cls(), AsyncScheduler):
        config.scheduler_config.async_scheduling = True


def _resolved(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
