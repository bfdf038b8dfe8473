"""Executors that record every batch: ``--distributed-executor-backend`` takes one of these classes by name.

Each is one of vLLM's own executors (or the emulated one) with a stopwatch around it; scheduling, memory and
results are untouched. On CPUs vLLM itself takes the multiprocess one unless another is named. Settings
come through ``--additional-config '{"block": {"record": {"journal": "FILE"}}}'``.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.kv_cache_interface import KVCacheConfig

from block.errors import ConfigError
from block.latency.journal import JournalStep, JournalWriter
from block.vllm_plugin.emulated_executor import EmulatedExecutor
from block.vllm_plugin.pack_header import pack_header
from block.vllm_plugin.settings import RecordSettings, plugin_settings
from block.vllm_plugin.step_recorder import StepRecorder

logger = init_logger("vllm.block.recorder")


class Recording(Executor):
    """What all recording executors do; comes before the executor that it records."""

    def _init_executor(self) -> None:
        settings = plugin_settings(self.vllm_config.additional_config).record
        if settings is None:
            raise ConfigError("--additional-config: block.record: missing; give at least its 'journal' file")
        self._record: RecordSettings = settings
        self._journal: JournalWriter | None = None
        self._recorder: StepRecorder | None = None
        super()._init_executor()

    def initialize_from_config(self, kv_cache_configs: list[KVCacheConfig]) -> None:
        """The cache's size is known now, and with it everything that a pack's header says."""
        super().initialize_from_config(kv_cache_configs)
        recorded = next(each for each in type(self).__mro__[1:] if not issubclass(each, Recording))
        blocks = kv_cache_configs[0].num_blocks
        header = pack_header(self.vllm_config, blocks, recorded.__qualname__, self._record.notes)
        self._journal = JournalWriter(self._record.journal, header)
        self._recorder = StepRecorder(self._append, time.monotonic)
        logger.info("Recording every batch of %s into %s", recorded.__qualname__, self._record.journal)

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        """Note the submission; a batch without tokens is none."""
        recorder = self._recorder
        if recorder is None:
            return super().execute_model(scheduler_output, non_block=non_block)
        has_tokens = scheduler_output.total_num_scheduled_tokens > 0
        if has_tokens:
            recorder.submitted(scheduler_output)
        try:
            output = super().execute_model(scheduler_output, non_block=non_block)
        except BaseException:
            if has_tokens:
                recorder.dropped()
            raise
        recorder.write()
        return output

    def sample_tokens(self, grammar_output: GrammarOutput | None, non_block: bool = False) -> Any:
        """Note the end, which is when the tokens are there, not when they were asked for."""
        output = super().sample_tokens(grammar_output, non_block=non_block)
        if self._recorder is not None:
            if isinstance(output, Future):
                output.add_done_callback(self._note_end)
            else:
                self._note_end()
        return output

    def shutdown(self) -> None:
        """Close the journal behind the last batch."""
        super().shutdown()
        recorder = getattr(self, "_recorder", None)
        if recorder is not None:
            recorder.write()
        self._stop()

    def _note_end(self, _: Any = None) -> None:
        if self._recorder is not None:
            self._recorder.ready()

    def _append(self, step: JournalStep) -> None:
        if self._journal is None:
            return
        try:
            self._journal.append(step)
        except OSError:
            logger.exception("The journal cannot be written; recording stops here, vLLM serves on")
            self._stop()

    def _stop(self) -> None:
        journal = getattr(self, "_journal", None)
        self._journal = self._recorder = None
        if journal is not None:
            journal.close()


class RecordingExecutor(Recording, UniProcExecutor):
    """vLLM's executor for one GPU, recorded."""


class RecordingMultiprocExecutor(Recording, MultiprocExecutor):
    """vLLM's executor for several workers, and its own choice for CPUs, recorded."""


class RecordingEmulatedExecutor(Recording, EmulatedExecutor):
    """The emulated executor, recorded: what comes out must be what went in."""
